"""What the trained models predict, and how far that is from the truth."""

# One job predicts all benchmarks of a run, because starting costs a tiny network more than predicting. Runs that are
# evaluated on the same splits share a rule.
for number, (splits, runs) in enumerate(predicted_splits().items()):

    rule:
        name:
            f"predict_{number}"
        input:
            run=training_record,
            indexes=benchmark_indexes,
        output:
            [PROJECT.results / "predictions" / split / f"{SEED}.csv" for split in splits],
            times=[PROJECT.results / "predictions" / split / f"{SEED}.timing.json" for split in splits],
            maps=[PROJECT.results / "maps" / split / f"{SEED}.npz" for split in splits],
        log:
            PROJECT.log("predict", "{system}", "{variant}", "seed{seed}"),
        benchmark:
            timing("predict", "{system}", "{variant}", "seed{seed}")
        wildcard_constraints:
            system=f"(?={'|'.join(runs)})[^/]+",
        conda:
            "../envs/train.yaml"
        threads: evaluation_threads
        resources:
            gpu=gpus,
            mem_mb=more_memory(PROJECT.suite.training_mem_mb),
            runtime=more_time(PROJECT.suite.training_minutes),
        params:
            reading=reading_settings,
            code=code_of("predict", "system"),
        shell:
            "RECOUNT_GPUS={resources.gpu} recount predict {wildcards.system:q}/{wildcards.variant:q}/seed{wildcards.seed:q} > {log:q} 2>&1"


rule test_prompts:
    input:
        run=training_record,
        indexes=prompt_test_indexes,
    output:
        PROJECT.results / "prompt_tests" / f"{SEED}.json",
        maps=PROJECT.results / "prompt_tests" / f"{SEED}.npz",
    log:
        PROJECT.log("test_prompts", "{system}", "{variant}", "seed{seed}"),
    benchmark:
        timing("test_prompts", "{system}", "{variant}", "seed{seed}")
    conda:
        "../envs/train.yaml"
    threads: evaluation_threads
    resources:
        gpu=gpus,
        mem_mb=more_memory(PROJECT.suite.training_mem_mb),
        runtime=more_time(PROJECT.suite.training_minutes),
    params:
        prompt_tests=prompt_test_settings,
        reading=reading_settings,
        code=code_of("test_prompts", "system"),
    shell:
        "RECOUNT_GPUS={resources.gpu} recount test-prompts {wildcards.system:q}/{wildcards.variant:q}/seed{wildcards.seed:q} > {log:q} 2>&1"


rule score:
    input:
        predictions=all_predictions(),
        papers=paper_files(),
    output:
        PROJECT.results / "scores.csv",
        PROJECT.results / "strata.csv",
        PROJECT.results / "influence.csv",
    log:
        PROJECT.log("score", "score"),
    benchmark:
        timing("score", "score")
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=more_memory(2000),
        runtime=more_time(60),
    params:
        code=code_of("score"),
    shell:
        "recount score > {log:q} 2>&1"


rule judge:
    input:
        predictions=all_predictions(),
        runs=all_runs(),
        prompt_tests=all_prompt_tests(),
        papers=paper_files(),
    output:
        PROJECT.results / "verdicts.csv",
    log:
        PROJECT.log("judge", "judge"),
    benchmark:
        timing("judge", "judge")
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=more_memory(2000),
        runtime=more_time(60),
    params:
        code=code_of("judge"),
    shell:
        "recount judge > {log:q} 2>&1"
