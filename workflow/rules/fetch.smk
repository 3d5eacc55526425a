"""Files from the network or by hand, checked; then samples as systems want them."""


rule fetch:
    output:
        PROJECT.raw / "{dataset}" / "manifest.json",
    log:
        PROJECT.log("fetch", "{dataset}"),
    benchmark:
        timing("fetch", "{dataset}")
    priority: first_priority
    localrule: True
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=more_memory(1000),
        runtime=more_time(720),
    params:
        code=code_of("fetch", "dataset"),
    shell:
        "recount fetch {wildcards.dataset:q} > {log:q} 2>&1"


rule fetch_weights:
    output:
        PROJECT.weights / "{weights}" / "manifest.json",
    log:
        PROJECT.log("fetch_weights", "{weights}"),
    benchmark:
        timing("fetch_weights", "{weights}")
    localrule: True
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=more_memory(1000),
        runtime=more_time(720),
    shell:
        "recount fetch-weights {wildcards.weights:q} > {log:q} 2>&1"


rule prepare:
    input:
        fetched,
    output:
        PROJECT.data / "{dataset}" / "{preparation}" / "index.csv",
    log:
        PROJECT.log("prepare", "{dataset}", "{preparation}"),
    benchmark:
        timing("prepare", "{dataset}", "{preparation}")
    priority: first_priority
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=more_memory(4000),
        runtime=more_time(120),
    params:
        code=code_of("prepare", "dataset"),
    shell:
        "recount prepare {wildcards.dataset:q} {wildcards.preparation:q} > {log:q} 2>&1"
