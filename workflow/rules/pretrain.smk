"""The tiny base models that recount comes with. Without a product (a benchmark is one) the rule runs whenever asked for."""


rule pretrain:
    log:
        PROJECT.log("pretrain", "pretrain"),
    conda:
        "../envs/train.yaml"
    threads: PROJECT.config.threads
    resources:
        gpu=0,
        mem_mb=more_memory(4000),
        runtime=more_time(120),
    shell:
        "(recount pretrain mini_clip && recount pretrain mini_towers && recount pretrain mini_sd) > {log:q} 2>&1"
