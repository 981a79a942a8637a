"""The examples that are one file each, as a user starts them: what they print is what they are for."""

import re
from statistics import mean

import pytest

from tests.examples.programs import PATIENCE, ROOT
from tests.fork_server import run_forked


def output_of(program: str, *arguments: str, within: float = 2 * PATIENCE) -> str:
    ended = run_forked([f"examples/{program}.py", *arguments], cwd=ROOT, timeout=within)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("transfers", [60, pytest.param(3000, marks=pytest.mark.long)])
def test_the_bank_keeps_all_money_although_accounts_crash_and_ends_with_the_error_of_its_ledger(transfers: int) -> None:
    printed = output_of("bank", "--transfers", str(transfers))
    progress = re.findall(r"(\d+) of \d+ transfers, \d+ refused, (\d+) restarts", printed)
    assert int(progress[-1][0]) == transfers
    assert int(progress[-1][1]) > 0
    assert "all     5000, as at the beginning" in printed
    assert printed.rstrip().endswith("OSError: the disk is full")
    assert "MaxRestartsExceeded: 'supervisor' gave up on 'Ledger': more than 2 restarts" in printed


@pytest.mark.parametrize("bidders", [3, pytest.param(40, marks=pytest.mark.long)])
def test_the_auction_sells_to_the_highest_bid_and_leaves_its_block(bidders: int) -> None:
    printed = output_of("embedding", "--bidders", str(bidders))
    offers = [int(amount) for amount in re.findall(r"^ +\d+ bids +(\d+) ▒", printed, re.MULTILINE)]
    assert offers == sorted(set(offers))
    (sold,) = re.findall(r"^sold to bidder-\d+ for (\d+) after \d+ bids; entered as no\. 1$", printed, re.MULTILINE)
    assert int(sold) == offers[-1]
    assert printed.endswith(
        "the notary closes its book: 1 sale\nthe block is left: the actors and all tasks have ended\n"
    )


@pytest.mark.parametrize(("pages", "words"), [(10, 34), pytest.param(30, 115, marks=pytest.mark.long)])
def test_a_page_whose_process_crashed_is_counted_all_the_same(pages: int, words: int) -> None:
    printed = output_of("everwork", "--pages", str(pages))
    assert len(re.findall(r"scout    sends pages up to", printed)) >= pages / 10
    assert re.search(r"counting [12] has ended: process \d+ ended with exit code 1", printed)
    (counted,) = re.findall(r"in the end +report   (\d+) pages, (\d+) words", printed)
    # The last firing of the trigger may have sent more than was wanted.
    assert int(counted[0]) >= pages
    assert int(counted[1]) >= words


def test_urgent_letters_are_opened_first_and_retries_wait_as_their_backoff_says() -> None:
    printed = output_of("pool", "--only", "priorities", "--only", "backoffs")
    order = "".join(re.findall(r"^    ([CHNl]+)$", printed, re.MULTILINE))
    places = {level: [place for place, one in enumerate(order) if one == level] for level in "CHNl"}
    assert [len(places[level]) for level in "CHNl"] == [5, 10, 20, 100]
    # On the average: a letter may be read while nothing more urgent has been.
    means = [mean(places[level]) for level in "CHNl"]
    assert means == sorted(means)
    waits = {
        name: [float(wait) for wait in re.findall(r"([\d.]+) s", line)]
        for name, line in re.findall(r"^  (fixed|linear|exponential|uniform) (.*)$", printed, re.MULTILINE)
    }
    # A busy machine makes waits longer, never shorter.
    least = {
        "fixed": (0.2, 0.2, 0.2),
        "linear": (0.1, 0.2, 0.3),
        "exponential": (0.08, 0.16, 0.32),
        "uniform": (0.05,) * 3,
    }
    assert {name: len(seconds) for name, seconds in waits.items()} == dict.fromkeys(least, 3)
    for name, bounds in least.items():
        assert all(wait >= bound for wait, bound in zip(waits[name], bounds, strict=True)), (name, waits[name])


@pytest.mark.long
def test_a_circuit_keeps_messages_from_failing_and_a_backlog_brings_processes() -> None:
    printed = output_of("pool", "--only", "circuit", "--only", "autoscaling")
    states = re.findall(r"the circuit is ([a-z ]+)", printed)
    assert (states[0], states[-1]) == ("open", "closed")
    assert re.search(r"all 200 orders are charged; .* 0 dead letters", printed)
    assert "from 1 to 3: a backlog of" in printed
    assert re.search(r"s  done \(process \d+: \d+", printed)


@pytest.mark.parametrize("pages", [5, pytest.param(20, marks=pytest.mark.long)])
def test_the_crawler_keeps_the_order_of_each_host_and_brings_its_dead_letters_home(pages: int) -> None:
    printed = output_of("crawler", "--rate", "50", "--pages", str(pages))
    expected = [str(page) for page in range(1, pages + 1)]
    (shop,) = re.findall(r"^  shop\.example +\d+ +[\d.]+ ▒* +([\d ]+)$", printed, re.MULTILINE)
    assert shop.split() == expected[: len(shop.split())]
    (wiki,) = re.findall(r"^  wiki\.example +\d+ +[\d.]+ ▒* +([\d ]+)$", printed, re.MULTILINE)
    assert wiki.startswith("1 2 3 4 4 5")
    assert f"{pages // 5} × Broken: the server answers 500" in printed
    assert f"{pages // 5} pages were mended, 0 letters are left" in printed
    assert f"shop.example: {pages} pages" in printed


@pytest.mark.long
@pytest.mark.parametrize("where", ["sqlite", "redis"])
def test_the_shop_sells_exactly_its_stock_although_its_nodes_are_killed(
    where: str, request: pytest.FixtureRequest
) -> None:
    broker = [] if where == "sqlite" else ["--broker", str(request.getfixturevalue("redis_url"))]
    printed = output_of("shop", "--orders", "200", "--kills", "3", *broker)
    assert "200 orders: 160 sold, 40 came too late" in printed
    assert "was killed" in printed, "how often depends on how long its orders take"
    assert printed.endswith("nothing was sold twice, nothing that was not there, and all buyers know\n")
