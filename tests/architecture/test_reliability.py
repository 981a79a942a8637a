"""The table of windows is checked: each test that it names exists, and each window has one that always runs."""

import ast
import re
from functools import cache
from pathlib import Path

HOUSE = Path(__file__).parents[2]
CHAPTER = (HOUSE / "docs" / "reliability.md").read_text(encoding="utf-8")
LONG = re.compile(r"pytest\.mark\.(long|chaos)\b")
NAMED = set(re.findall(r"`(test_\w+)`", CHAPTER))


@cache  # And not at import: each worker imports every test.
def functions() -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    return {
        node.name: node
        for path in (HOUSE / "tests").rglob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def always_runs(test: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Tell whether a test, or its short form among its parameters, runs without `just test-all`."""
    for decorator in test.decorator_list:
        values = decorator.args[1] if isinstance(decorator, ast.Call) and len(decorator.args) > 1 else None
        forms = values.elts if isinstance(values, ast.List | ast.Tuple) else [decorator]
        if all(LONG.search(ast.unparse(form)) for form in forms):
            return False
    return True


def rows() -> list[str]:
    start = CHAPTER.index("| window |")
    return [line for line in CHAPTER[start : CHAPTER.index("\n\n", start)].splitlines()[2:] if line]


def test_each_test_that_the_chapter_names_is_there():
    assert NAMED - functions().keys() == set()


def test_each_window_names_a_test_that_always_runs():
    assert len(rows()) > 10
    for row in rows():
        assert any(always_runs(functions()[name]) for name in re.findall(r"`(test_\w+)`", row)), row


def test_only_these_have_no_short_form_among_their_own_parameters():
    """Short forms of the first two are drills beside them in the table; chaos looks for what no drill thought of.

    Neighbours of the last ones in their files always run: other ends of a process, the scale that processes follow (in
    virtual time), what else a hangup changes, other outages, the other example, the other type checker,
    the application itself without its server, the bridge to Celery without a worker of it, the model
    that finds the mutants of states, all that tests do with such clusters, other changes of a cluster.
    """
    assert {name for name, test in functions().items() if not always_runs(test)} == {
        "test_a_minute_of_silence_under_a_stream_of_messages",
        "test_a_circuit_keeps_messages_from_failing_and_a_backlog_brings_processes",
        "test_a_minute_of_chaos",
        "test_pyright_refuses_what_has_to_be_refused",
        "test_half_a_minute_of_the_harness",
        "test_clients_reach_a_cluster_through_its_wires_alone",
        "test_nodes_that_slept_while_their_cluster_changed_settle_nothing_twice",
        "test_the_example_of_a_cluster_for_tests_runs",
        "test_the_model_sees_a_state_that_is_written_beside_the_script",
        "test_the_model_sees_that_a_node_goes_on_with_an_old_state",
        "test_the_model_sees_what_is_wrong_with_the_states_of_a_script",
        "test_the_model_sees_what_is_wrong_with_the_states_of_the_store",
        "test_the_model_sees_what_is_wrong_with_the_reminders_of_the_store",
        "test_the_shop_sells_exactly_its_stock_although_its_nodes_are_killed",
        "test_hundreds_of_chords_while_their_nodes_are_killed_and_frozen",
        "test_states_of_two_hundred_keys_while_their_nodes_are_killed_and_frozen",
        "test_uvicorn_serves_it_with_two_workers_that_have_a_client_each",
        "test_a_reader_sees_what_a_page_shows",
        "test_neighbouring_processes_start_side_by_side",
        "test_a_busy_process_whose_loop_runs_is_left_alone",
        "test_one_of_several_is_stopped_and_another_one_added",
        "test_a_suspended_process_is_replaced_without_its_stacks",
        "test_real_processes_come_and_go",
        "test_one_whose_successor_does_not_start_stays_and_begins_nothing_more",
        "test_above_so_much_memory_it_is_replaced",
        "test_replicas_die_alone_and_the_others_go_on",
        "test_processes_and_actors_end_in_the_reverse_order_of_their_start",
        "test_a_stop_ends_both_in_order",
        "test_the_example_of_the_chapter_runs",
        "test_a_hangup_resumes_a_source_in_the_processes_that_run",
        "test_a_server_that_refuses_for_a_while_is_worked_on_when_it_accepts_again",
        "test_connections_cut_in_mid_reply_lose_nothing",
        "test_a_package_gets_the_tests_that_pass_and_one_that_does_not_exist_none",
        "test_api_worker_and_broker_start_in_any_order_and_a_killed_worker_loses_nothing",
        "test_a_client_that_was_used_before_gunicorn_forks_is_used_in_each_worker",
        "test_hypercorn_serves_actors_and_pages_on_one_loop",
        "test_the_command_of_a_django_project_runs_the_tasks_that_its_server_has_sent",
        "test_a_worker_handles_what_is_sent_from_here_and_its_results_come_back",
        "test_a_bridge_before_a_worker_takes_its_own_tasks_and_leaves_all_others_to_it",
        "test_no_task_and_no_result_is_lost_when_bridges_are_killed",
    }
