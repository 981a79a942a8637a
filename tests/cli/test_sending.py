"""`actorwork send`: the destination of a message, and files with invalid lines."""

import json
import re
from pathlib import Path

import pytest

from actorwork.settings import default_source, identity

from .conftest import Shell

TILL = default_source(identity("till"))


def test_a_message_goes_to_a_source(shell: Shell):
    assert re.fullmatch(r"sent message [0-9a-f]{16}-0 to the source 'orders'\n", shell("send", "orders", "{}").stdout)
    assert shell.backlog("orders") == 1


@pytest.mark.parametrize(
    ("arguments", "source"),
    [
        (["orders"], "orders"),
        (["orders:eu-1_x"], "orders:eu-1_x"),
        (["till"], "till"),
        (["till", "--actor"], TILL),
        (["actor:till"], TILL),
        (["actor:till", "--source"], "actor:till"),
        (["actor:till", "--actor"], TILL),
        (["the till"], default_source(identity("the till"))),
        (["actor:shop:Till"], default_source(identity("shop:Till"))),
        (["shop:Till", "--actor"], TILL),
        (["shop:Till"], TILL),
        (["shop:Till", "--source"], "shop:Till"),
        (["shpo:Till"], "shpo:Till"),
        (["ünder"], default_source(identity("ünder"))),
    ],
)
def test_a_name_is_read_by_the_rule_that_help_states(shell: Shell, arguments: list[str], source: str):
    shell.enter({title: [] for title in ("till", "the till", "shop:Till", "ünder")})
    assert shell.json("send", *arguments, '{"seconds": 1}')["source"] == source
    assert shell.backlog(source) == 1


def test_a_class_that_its_module_does_not_have_is_no_source_by_mistake(shell: Shell):
    refused = shell("send", "shop:Tlil", "{}", code=2).stderr
    assert "the module 'shop' has no 'Tlil'; it has 'Till'" in refused
    assert "If 'shop:Tlil' is the name of a source, add --source" in refused


@pytest.mark.parametrize("arguments", [["{}"], ["--from", "-"]], ids=["one message", "a file"])
def test_an_actor_that_has_never_run_is_refused_with_names_like_its_own(shell: Shell, arguments: list[str]):
    assert (
        "no actor 'oders' has run at this broker, nor has any other"
        in shell("send", "actor:oders", "{}", code=1).stderr
    )
    shell.enter({"orders": ["orders", "returns"], "till": []})
    refused = shell("send", "actor:oders", *arguments, input="{}\n", code=1).stderr
    assert "no actor 'oders' has run at this broker; did you mean 'orders'? (--force if it is to run later)" in refused
    assert "known are 'orders', 'till'" in shell("send", "actor:xyz", "{}", code=1).stderr
    oders = default_source(identity("oders"))
    assert shell.backlog(oders) == 0
    shell("send", "actor:oders", *arguments, "--force", input="{}\n")
    assert shell.backlog(oders) == 1


def test_a_source_that_no_actor_has_read_is_noted_and_takes_the_message(shell: Shell):
    shell.enter({"till": ["orders"]})
    assert "note" not in shell("send", "orders", "{}").stderr
    noted = shell("send", "oders", "{}").stderr
    assert noted == "note: no actor that has run at this broker reads the source 'oders'; did you mean 'orders'?\n"
    assert "the actor of this title is actor:till" in shell("send", "till", "{}").stderr
    assert shell.backlog("oders") == 1


def test_a_class_with_a_dot_needs_no_flag(shell: Shell):
    (shell.folder / "branch").mkdir()
    (shell.folder / "branch" / "staff.py").write_text((shell.folder / "shop.py").read_text())
    assert shell.json("send", "branch.staff:Till", '{"seconds": 1}')["source"] == TILL


@pytest.mark.parametrize("name", ["", "orders!", "x" * 301])
def test_an_invalid_source_is_refused(shell: Shell, name: str):
    assert "a source is 1 to 300 characters" in shell("send", name, "{}", "--source", code=2).stderr


def test_a_message_for_a_class_is_checked_against_its_handlers(shell: Shell):
    refused = shell("send", "shop:Till", '{"number": "one"}', "--actor", "--type", "Order", code=1)
    assert refused.stderr == (
        "Error: the actor 'till' does not take this message: not an Order: at number: wants a whole number, got 'one'\n"
    )
    assert shell.backlog(TILL) == 0
    shell("send", "shop:Till", '{"number": 1}', "--actor", "--type", "Order")
    assert shell.backlog(TILL) == 1


def test_invalid_json_is_refused(shell: Shell):
    assert "the payload is not JSON" in shell("send", "orders", "{number: 1}", code=1).stderr
    assert shell.backlog("orders") == 0


def test_the_same_id_is_kept_once(shell: Shell):
    assert "sent message 17 to" in shell("send", "orders", "{}", "--id", "17").stdout
    assert "it is kept once" in shell("send", "orders", "{}", "--id", "17").stdout
    assert shell.json("send", "orders", "{}", "--id", "17") == {"id": "17", "source": "orders", "new": False}
    assert shell.backlog("orders") == 1


@pytest.mark.parametrize("arguments", [["orders"], ["orders", "{}", "--from", "-"]])
def test_there_is_one_message_or_one_file(shell: Shell, arguments: list[str]):
    assert "either one message as JSON, or a file" in shell("send", *arguments, code=2).stderr


def test_every_line_of_a_file_is_sent(shell: Shell):
    file = shell.folder / "orders.ndjson"
    file.write_text("".join(f'{{"number": {number}}}\n' for number in range(1234)))
    assert shell("send", "orders", "--from", str(file)).stdout == "sent 1,234 messages to the source 'orders'\n"
    assert shell.backlog("orders") == 1234


BAD = '{"number": 1}\n\n  \nthis is none\n{"number": 2}\r\n{"number": NaN}\n{"number": 3}'


def test_invalid_lines_are_reported_by_number_and_the_others_are_sent(shell: Shell):
    result = shell("send", "orders", "--from", "-", input=BAD, code=1)
    assert result.stdout == "sent 3 messages to the source 'orders'; skipped 2 invalid lines\n"
    assert re.findall(r"^line (\d+): the payload is not JSON", result.stderr, re.MULTILINE) == ["4", "6"]
    assert shell.backlog("orders") == 3


def test_json_lists_the_invalid_lines(shell: Shell):
    printed = shell.json("send", "orders", "--from", "-", input=BAD, code=1)
    assert (printed["source"], printed["sent"], printed["new"]) == ("orders", 3, 3)
    assert [bad["line"] for bad in printed["bad"]] == [4, 6]


def test_bytes_that_are_not_utf_8_are_an_invalid_line(shell: Shell):
    result = shell("send", "orders", "--from", "-", input=b'\xef\xbb\xbf{"a": 1}\n"\xff"\n', code=1)
    assert "line 2: the payload is not UTF-8" in result.stderr
    assert shell.backlog("orders") == 1


def test_an_invalid_line_cannot_control_the_terminal(shell: Shell):
    result = shell("send", "orders", "--from", "-", input='[bold]\x1b[2J{"a": 1}\n', code=1)
    assert "\x1b" not in result.output


def test_a_file_sent_again_is_kept_once(shell: Shell):
    lines = "".join(f"{number}\n" for number in range(600))
    shell("send", "orders", "--from", "-", "--id", "tuesday", input=lines)
    again = shell("send", "orders", "--from", "-", "--id", "tuesday", input=f"{lines}600\n")
    assert again.stdout == "sent 601 messages to the source 'orders', 600 of them were there before\n"
    assert shell.backlog("orders") == 601


def test_a_long_line_arrives_in_whole(shell: Shell):
    long = json.dumps({"text": "x" * 5_000_000})
    assert "sent 2 messages" in shell("send", "orders", "--from", "-", input=f"{long}\n1").stdout


def test_lines_from_a_pipe_are_sent_without_waiting_for_more(shell: Shell):
    with shell.start("send", "orders", "--from", "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("1\n2\n")
        process.stdin.flush()
        while shell.backlog("orders") < 2:
            assert process.poll() is None
        process.stdin.close()
        assert process.stdout.read() == "sent 2 messages to the source 'orders'\n"
        assert process.wait(20) == 0


def test_an_interrupt_reports_the_last_line_sent(shell: Shell):
    with shell.start("send", "orders", "--from", "-", "--id", "tuesday") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write("1\n2\n")
        process.stdin.flush()
        while shell.backlog("orders") < 2:
            assert process.poll() is None
        process.send_signal(2)
        assert process.wait(20) == 1
        assert "everything up to line 2 is sent. Send the file again with --id tuesday" in process.stderr.read()


def test_a_message_may_be_delayed(shell: Shell):
    shell("send", "orders", "{}", "--delay", "1h")
    assert "did you mean 30s?" in shell("send", "orders", "{}", "--delay", "30", code=2).stderr


def test_waiting_for_a_broker_is_bounded(shell: Shell):
    result = shell(
        "send", "orders", "{}", "--broker", f"unix://{shell.folder}/nobody.sock", "--timeout", "300ms", code=1
    )
    assert "Error: " in result.stderr


def test_a_broker_of_no_known_kind_is_refused(shell: Shell):
    result = shell("send", "orders", "{}", "--broker", "amqp://localhost", code=1)
    assert "known are redis://" in result.stderr


def test_a_missing_file_is_wrong_usage(shell: Shell):
    assert "does not exist" in shell("send", "orders", "--from", str(Path("nowhere.ndjson")), code=2).stderr
