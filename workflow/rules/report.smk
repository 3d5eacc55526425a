"""The report: what was measured beside what was published; and a first page, before all is there."""


rule report:
    input:
        scores=rules.score.output[0],
        verdicts=rules.judge.output[0],
        runs=all_runs(),
        prompt_tests=all_prompt_tests(),
        papers=paper_files(),
        reference=sorted((Path("reference") / PROJECT.suite.name).glob("*.*")),
    output:
        # snakemake --report report.zip wraps the page, its tables and figures with Snakemake's own provenance.
        report(
            directory(PROJECT.report),
            htmlindex="index.html",
            category="recount",
            labels={"suite": PROJECT.suite.name},
        ),
    log:
        PROJECT.log("report", "report"),
    benchmark:
        timing("report", "report")
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=more_memory(4000),
        runtime=more_time(60),
    params:
        code=code_of("report"),
    shell:
        "recount report > {log:q} 2>&1"


# Once, and only beside what comes later: whoever wants it anew calls the command.
if FIRST:

    rule so_far:
        input:
            predictions=all_predictions(FIRST),
        output:
            directory(PROJECT.so_far),
        log:
            PROJECT.log("report", "so_far"),
        benchmark:
            timing("report", "so_far")
        priority: 2
        conda:
            "../envs/report.yaml"
        threads: 1
        resources:
            gpu=0,
            mem_mb=more_memory(4000),
            runtime=more_time(60),
        shell:
            "recount report --so-far > {log:q} 2>&1"
