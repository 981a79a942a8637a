"""How a delivery ends: the row of its owner goes, and with the last group's row the entry, its key and its unique key.

Everything here is fenced: a statement names the owner and the delivery count that the token has, and changes nothing
if another node has been given the message since.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence

from actorwork.embedded.dead_letters import DeadLetterTable
from actorwork.embedded.key_queues import KeyQueues
from actorwork.embedded.outcomes import Outcomes
from actorwork.embedded.rows import CARRIED, SettleOrder, Token, channel_number, source_of
from actorwork.embedded.sources import SourceNumbers
from actorwork.embedded.states import StateTable
from actorwork.embedded.transaction import Transaction
from actorwork.embedded.uniques import Uniques
from actorwork.message import FAILED, Delivery, Failure, Outcome, is_tracked
from actorwork.policy.attempts import headers_of_failure, headers_of_next_attempt
from actorwork.policy.settlement import LOST, Ack, Fail, Reject, Retry, cancelled


class Settlements:
    def __init__(
        self,
        transaction: Transaction,
        sources: SourceNumbers,
        key_queues: KeyQueues,
        uniques: Uniques,
        outcomes: Outcomes,
        dead_letters: DeadLetterTable,
        states: StateTable,
    ) -> None:
        self._states = states
        self._transaction = transaction
        self._execute = transaction.execute
        self._sources = sources
        self._key_queues = key_queues
        self._uniques = uniques
        self._outcomes = outcomes
        self._dead_letters = dead_letters

    def __repr__(self) -> str:
        return "<Settlements>"

    def settle_plain(self, tokens: Iterable[Token]) -> set[Token]:
        """End deliveries that need nothing else; return the tokens of those that were not ours any more."""
        refused: set[Token] = set()
        alike: dict[tuple[int, int, int], list[Token]] = {}
        for token in tokens:
            alike.setdefault(token[1:4], []).append(token)
        for owned, given in alike.items():
            seqs = json.dumps([token.seq for token in given])
            if len(given) > 1:
                self._execute("savepoint plain")
                done = self._execute(
                    "delete from pending where grp = ? and node = ? and count = ?"
                    " and seq in (select value from json_each(?))",
                    (*owned, seqs),
                )
                if done.rowcount == len(given):
                    self._execute("release plain")
                    self._drop_all(seqs)
                    continue
                # Some belong to others by now; which ones, only one statement for each can tell.
                self._execute("rollback to plain")
                self._execute("release plain")
            ours = [token.seq for token in given if self._disown(token)]
            if len(ours) < len(given):
                kept = set(ours)
                refused.update(token for token in given if token.seq not in kept)
            self._drop(ours)
        return refused

    def settle(self, order: SettleOrder) -> bool:
        """End one delivery with all that belongs to it, if it is still ours; return whether it was."""
        delivery = order.delivery
        if not self._disown(delivery.token):
            return False
        if order.started is not None or order.progress is not None:
            self._states.note(delivery, self._sources.number(delivery.source), order.started, order.progress)
        match order.settlement:
            case Ack(result=result, starts=starts, continues=continues, expands=expands):
                self._transaction.starts.extend(starts)
                if expands is not None and not self._outcomes.is_of_former_run(delivery.headers):
                    self._transaction.expansions.append((delivery.id, expands))
                if continues is None:
                    self.answer(delivery, Outcome("done", b"null" if result is None else result))
                else:
                    self._transaction.starts.append(continues)
            case Reject(failure=failure):
                self.answer(delivery, Outcome("rejected", failure=failure))
            case Fail(failure=failure):
                self._dead_letters.keep(delivery, order.group, order.actor, failure, order.bounds)
                if order.is_told_failures:
                    self.tell_failure(delivery, order.group, failure)
                self.answer(delivery, Outcome("failed", failure=failure))
            case Retry() as retry:
                if not self.end_cancelled(delivery) and not self._try_again(delivery, order.group, retry):
                    self.answer(delivery, Outcome("rejected", failure=LOST))
        self.end(delivery.token)
        return True

    def answer(self, delivery: Delivery, outcome: Outcome) -> None:
        if delivery.headers:
            source = self._sources.number(delivery.source)
            self._outcomes.answer(source, delivery.source, delivery.id, delivery.headers, outcome)

    def end_cancelled(self, delivery: Delivery) -> bool:
        """Answer for a message that was cancelled while it was in flight, and return whether it was."""
        if not is_tracked(delivery.headers):
            return False
        reason = self._states.why_cancelled(self._sources.number(delivery.source), delivery.id)
        if reason is None:
            return False
        self.answer(delivery, Outcome("rejected", failure=cancelled(reason).failure))
        return True

    def tell_failure(self, delivery: Delivery, group: str, failure: Failure) -> None:
        """Add the delivery by which an actor learns that this one has failed, unless this is one of those itself."""
        if FAILED in delivery.headers:
            return
        now = self._transaction.now
        self._execute(
            f"insert into entries ({CARRIED}, ready)"
            " select source, id, type, data, ?, born, ?, null, null, null, ? from entries where seq = ?",
            (json.dumps(headers_of_failure(delivery.headers, failure, delivery.key)), group, now, delivery.token.seq),
        )
        self._transaction.touched.add(channel_number(self._sources.number(delivery.source), delivery.priority))

    def end(self, token: Token) -> None:
        """Delete an entry if its last group has settled it, and free its key and its unique key."""
        if not token.bound:
            self._drop((token.seq,))
            return
        row = self._execute("select source, id, key, uniq from entries where seq = ?", (token.seq,)).fetchone()
        if row is None or not self._drop((token.seq,)):
            return
        number, message_id, key, unique = row
        if unique is not None:
            self._uniques.release(source_of(number), unique, message_id)
        if key is not None:
            self._key_queues.advance(source_of(number), key)

    def owns(self, token: Token) -> bool:
        row = self._execute(
            "select 1 from pending where seq = ? and grp = ? and node = ? and count = ?", token.owned
        ).fetchone()
        return row is not None

    def hand_over(self, delivery: Delivery, uniques: Collection[str]) -> None:
        """Free the unique key of a delivery that goes on, if it is one of these: a message of its own takes it over.

        After the delivery has ended it would be free, and the message would be kept.
        """
        row = self._execute("select uniq from entries where seq = ?", (delivery.token.seq,)).fetchone()
        if row is not None and row[0] in uniques:
            self._execute("update entries set uniq = null where seq = ?", (delivery.token.seq,))
            self._uniques.release(self._sources.number(delivery.source), row[0], delivery.id)

    def release(self, delivery: Delivery) -> bool:
        """Release a delivery to its old place, with its count restored; return whether it was still ours."""
        done = self._execute(
            "update pending set node = 0, count = count - 1 where seq = ? and grp = ? and node = ? and count = ?",
            delivery.token.owned,
        )
        if done.rowcount == 0:
            return False
        self._transaction.touched.add(channel_number(self._sources.number(delivery.source), delivery.priority))
        return True

    def _disown(self, token: Token) -> bool:
        done = self._execute("delete from pending where seq = ? and grp = ? and node = ? and count = ?", token.owned)
        return done.rowcount == 1

    def _drop(self, seqs: Sequence[int]) -> int:
        return self._drop_all(json.dumps(seqs))

    def _drop_all(self, seqs: str) -> int:
        """Delete the entries that every group has settled; return how many."""
        done = self._execute(
            "delete from entries where seq in (select value from json_each(?))"
            " and not exists (select 1 from pending p where p.seq = entries.seq)"
            " and (addressee is not null or not exists"
            " (select 1 from groups g where g.source = entries.source and g.cursor < entries.seq))",
            (seqs,),
        )
        return done.rowcount

    def _try_again(self, delivery: Delivery, group: str, retry: Retry) -> bool:
        """Write the next attempt; return false if there is nothing to write: the row was deleted by hand."""
        delay = retry.delay
        headers = headers_of_next_attempt(delivery, retry.failure, self._transaction.now, retry.headers)
        seq = delivery.token.seq
        if delay <= 0:
            due = None
            done = self._execute(
                f"insert into entries ({CARRIED}, ready)"
                " select source, id, type, data, ?, born, ?, key, expires, uniq, ? from entries where seq = ?",
                (json.dumps(headers), group, self._transaction.now, seq),
            )
        else:
            due = self._transaction.now + delay
            done = self._execute(
                f"insert into delayed ({CARRIED}, due, goes_first)"
                " select source, id, type, data, ?, born, ?, key, expires, uniq, ?, key is not null"
                " from entries where seq = ?",
                (json.dumps(headers), group, due, seq),
            )
        if done.rowcount == 0:
            return False
        if due is None:
            self._transaction.touched.add(channel_number(self._sources.number(delivery.source), delivery.priority))
        else:
            self._transaction.is_delayed_until(due)
        if is_tracked(delivery.headers):
            self._states.retry(delivery, self._sources.number(delivery.source), retry.failure)
        return True
