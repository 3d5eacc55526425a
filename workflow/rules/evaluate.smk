"""What the trained models predict, and how far that is from the truth."""

for name, places, pattern, runs in evaluation_jobs("predict"):

    rule:
        name:
            name
        input:
            run=training_record,
            indexes=evaluation_indexes("predict", places),
        output:
            [PROJECT.results / "predictions" / place / f"{SEED}.csv" for place in places],
            times=[PROJECT.results / "predictions" / place / f"{SEED}.timing.json" for place in places],
            maps=[PROJECT.results / "maps" / place / f"{SEED}.npz" for place in places],
        log:
            PROJECT.log("predict", *log_parts(places)),
        benchmark:
            timing("predict", *log_parts(places))
        wildcard_constraints:
            place=pattern,
            system=runs,
        conda:
            "../envs/train.yaml"
        threads: evaluation_threads
        resources:
            gpu=gpus,
            mem_mb=more_memory(PROJECT.suite.evaluation_mem_mb),
            runtime=more_time(PROJECT.suite.evaluation_minutes),
            attempt=attempt_number,
        params:
            benchmarks=asked_benchmarks("predict", places),
            reading=reading_settings,
            code=code_of("predict", "system"),
        shell:
            "RECOUNT_GPUS={resources.gpu} RECOUNT_ATTEMPT={resources.attempt} RECOUNT_MINUTES={resources.runtime}"
            " recount predict {wildcards.system:q}/{wildcards.variant:q}/seed{wildcards.seed:q} {params.benchmarks:q}"
            " > {log:q} 2>&1"


for name, places, pattern, runs in evaluation_jobs("test_prompts"):

    rule:
        name:
            name
        input:
            run=training_record,
            indexes=evaluation_indexes("test_prompts", places),
        output:
            [PROJECT.results / "prompt_tests" / place / f"{SEED}.json" for place in places],
            maps=[PROJECT.results / "prompt_tests" / place / f"{SEED}.npz" for place in places],
        log:
            PROJECT.log("test_prompts", *log_parts(places)),
        benchmark:
            timing("test_prompts", *log_parts(places))
        wildcard_constraints:
            place=pattern,
            system=runs,
        conda:
            "../envs/train.yaml"
        threads: evaluation_threads
        resources:
            gpu=gpus,
            mem_mb=more_memory(PROJECT.suite.evaluation_mem_mb),
            runtime=more_time(PROJECT.suite.evaluation_minutes),
            attempt=attempt_number,
        params:
            benchmarks=asked_benchmarks("test_prompts", places),
            prompt_tests=prompt_test_settings(places),
            reading=reading_settings,
            code=code_of("test_prompts", "system"),
        shell:
            "RECOUNT_GPUS={resources.gpu} RECOUNT_ATTEMPT={resources.attempt} RECOUNT_MINUTES={resources.runtime}"
            " recount test-prompts {wildcards.system:q}/{wildcards.variant:q}/seed{wildcards.seed:q} {params.benchmarks:q}"
            " > {log:q} 2>&1"


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
