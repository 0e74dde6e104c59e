"""Tables for the terminal."""

import rich.console

from artart.io.page import Table


def test_a_table_in_the_terminal_has_its_note_below(capsys):
    table = Table("Classes", ["class", "files"], [["a [b]", "3"]], "15 more classes are in [report].json.")
    rich.console.Console(width=60).print(table.for_terminal())
    above, _, below = capsys.readouterr().out.partition("└")
    assert above.split()[0] == "Classes"
    assert "a [b]" in above
    assert " ".join(below.split()[1:]) == "15 more classes are in [report].json."
