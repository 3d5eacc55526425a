"""The list of mutants follows the code; ``make mutants`` tries them and writes the result into docs/reliability.md."""

import mutants


def test_each_mutant_is_made_in_code_that_is_there() -> None:
    told = mutants.PAGE.read_text(encoding="utf-8").partition(mutants.BEGIN)[2].partition(mutants.END)[0]
    listed = mutants.read()
    assert len(listed) >= 60
    assert [line for mutant in listed for line in mutants.misfits(mutant)] == []
    rows = {f"| `{mutant.file}` | {mutant.id} |" for mutant in listed}
    assert [row for row in told.splitlines() if row.startswith("| `") and not row.startswith(tuple(rows))] == []


def test_a_mutant_that_does_not_follow_the_code_is_named() -> None:
    gone = mutants.Mutant(
        "a fault", "chain.py", "no such line", "x", ("test_config.py", "test_config.py::test_nothing")
    )
    assert [*mutants.misfits(gone)] == [
        "`old` stands 0 times in src/recount/chain.py, not once: write it as the code is now",
        "there is no tests/test_config.py::test_nothing",
    ]


def test_the_table_says_what_was_caught_and_what_survived() -> None:
    one, other = (mutants.Mutant(f"fault {k}", "chain.py", "a", "b", ()) for k in "12")
    found = {one: mutants.Outcome("tests/x.py::test_y", 1.0), other: mutants.Outcome("", 1.0)}
    assert mutants.markdown(found).splitlines()[0] == "1 of 2 (50%) of these faults are caught."
    assert mutants.markdown(found).splitlines()[-2:] == [
        "| `chain.py` | fault 1 | `tests/x.py::test_y` |",
        "| `chain.py` | fault 2 | **survived** |",
    ]
