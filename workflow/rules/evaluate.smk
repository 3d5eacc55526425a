"""What the trained models predict, and how far that is from the truth."""

for step, name, places, pattern, runs in ((step, *job) for step in EVALUATED for job in evaluation_jobs(step)):

    rule:
        name:
            name
        input:
            run=training_record,
            indexes=evaluation_indexes(step, places),
        output:
            **evaluation_files(step, places),
        log:
            PROJECT.log(step, *log_parts(places)),
        benchmark:
            timing(step, *log_parts(places))
        wildcard_constraints:
            place=pattern,
            system=runs,
        priority: first_priority
        conda:
            "../envs/train.yaml"
        threads: evaluation_threads
        resources:
            gpu=gpus,
            mem_mb=more_memory(PROJECT.suite.evaluation_mem_mb),
            runtime=more_time(PROJECT.suite.evaluation_minutes),
            attempt=attempt_number,
        params:
            command=step.replace("_", "-"),
            benchmarks=asked_benchmarks(step, places),
            prompt_tests=prompt_test_settings(step, places),
            reading=reading_settings,
            code=code_of(step, "system"),
        shell:
            "RECOUNT_GPUS={resources.gpu} RECOUNT_ATTEMPT={resources.attempt} RECOUNT_MINUTES={resources.runtime}"
            " recount {params.command} {wildcards.system:q}/{wildcards.variant:q}/seed{wildcards.seed:q}"
            " {params.benchmarks:q} > {log:q} 2>&1"


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
