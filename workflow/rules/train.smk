"""One training run. Its checkpoint folder is not declared, so that a killed job resumes (Snakemake deletes outputs)."""


rule train:
    input:
        training_inputs,
    output:
        run=RUN_FOLDER / "run.json",
        history=RUN_FOLDER / "history.csv",
        model=RUN_FOLDER / "model.safetensors",
    log:
        PROJECT.log("train", "{system}", "{variant}", "seed{seed}"),
    benchmark:
        timing("train", "{system}", "{variant}", "seed{seed}")
    priority: training_priority
    conda:
        "../envs/train.yaml"
    threads: training_threads
    resources:
        gpu=training_gpus,
        mem_mb=training_memory,
        runtime=more_time(PROJECT.suite.training_minutes),
    params:
        run=training_settings,
        code=code_of("train", "system"),
    shell:
        "RECOUNT_GPUS={resources.gpu} recount train {wildcards.system:q}/{wildcards.variant:q}/seed{wildcards.seed:q} > {log:q} 2>&1"
