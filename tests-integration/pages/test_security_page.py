"""Each sentence of SECURITY.md that promises something has a test that would fail if it were not true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
CORE, NATS, REDIS, ZMQ = (
    "packages/clstr-core/tests/",
    *(f"plugins/clstr-{name}/tests/" for name in ("nats", "redis", "zmq")),
)
CLUSTERS = "tests-integration/clusters/"
FUZZ = "tests-integration/fuzz/test_fuzz.py::test_any_bytes"
PROMISES = ("What is defended", "Least rights")

# What each sentence begins with, and its tests.
TESTED: dict[str, list[str]] = {
    # Decoding
    "**Decoding** is typed and bounded": [
        CORE + "messages/test_wire.py::test_any_bytes_are_a_request_or_an_invalid_envelope"
    ],
    "Sizes are checked before decoding": [
        CORE + "spi/test_receiver.py::test_a_body_that_is_too_large_is_not_decoded",
        CORE + "messages/test_wire.py::test_too_many_headers_or_keys_are_refused_while_they_are_read",
        CORE + "messages/test_envelope.py::test_too_large_headers_are_refused_with_their_bytes_and_the_bound",
        CORE + "spi/test_receiver.py::test_a_wrong_field_is_refused_by_name",
    ],
    "What does not fit is counted and refused": [
        CORE + "spi/test_receiver.py::test_garbage_is_counted_and_answered_and_the_next_message_is_read"
    ],
    "A fuzzer guided by coverage": [FUZZ],
    # Bounds
    "**Bounds** are on by default": [
        CORE + "test_limits.py::test_the_defaults_are_those_of_the_contract",
        CORE + "actors/test_actor_handler.py::test_there_is_a_bound_by_default",
        CORE + "actors/test_actor_handler.py::test_the_mailbox_is_bounded_for_each_key",
    ],
    "See [`Limits`]": [CORE + "test_limits.py::test_the_names_are_those_of_the_limits"],
    # Reserved headers
    "**Reserved headers**": [
        CORE + "client/test_send_options.py::test_reserved_headers_are_refused_in_any_case",
        CORE + "messages/test_envelope.py::test_any_spelling_of_the_prefix_is_reserved",
    ],
    # Replies
    "**Replies** are bound to requests": [
        CORE + "spi/test_pending.py::test_no_token_follows_from_those_before",
        CORE + "spi/test_pending.py::test_tokens_use_every_random_bit_and_are_drawn_many_at_a_time",
    ],
    "A token is answered once": [
        CORE + "spi/test_pending.py::test_only_the_first_event_counts",
        CORE + "spi/test_receiver.py::test_an_answer_to_an_unknown_token_is_late_and_not_read",
    ],
    "ZeroMQ and memory know": [CORE + "spi/test_receiver.py::test_an_answer_from_a_peer_that_was_not_asked_is_garbage"],
    "On NATS and Redis the address is a secret": [
        NATS + "test_subjects.py::test_every_peer_has_an_inbox_that_nobody_can_guess",
        REDIS + "test_names.py::test_an_inbox_is_known_as_one_and_never_given_twice",
    ],
    "**Addresses** of answers are inboxes": [
        NATS + "test_security.py::test_a_node_answers_nowhere_but_at_inboxes",
        REDIS + "test_security.py::test_an_answer_s_channel_is_an_inbox_or_nothing",
    ],
    "**Call chains** count only": [
        CORE + "actors/test_actor_handler.py::test_a_chain_that_this_node_did_not_write_opens_nothing"
    ],
    # Injection
    "**Injection**": [
        REDIS + "test_names.py::test_any_prefix_is_refused_or_spells_itself",
        NATS + "test_subjects.py::test_other_inbox_prefixes_are_refused",
    ],
    "Redis scripts are constants": [
        REDIS + "test_connection.py::test_a_script_that_the_server_has_lost_is_loaded_and_runs_once"
    ],
    # Secrets
    "**Secrets**": [
        CORE + "urls/test_url.py::test_a_password_never_shows",
        NATS + "test_security.py::test_a_password_is_told_to_nobody",
        NATS + "test_security.py::test_a_secret_that_the_server_repeats_is_in_no_error_and_in_no_chain",
        REDIS + "test_security.py::test_a_password_is_told_to_nobody",
        REDIS + "test_security.py::test_a_password_that_the_server_repeats_is_in_no_error_and_in_no_chain",
        ZMQ + "test_security.py::test_secrets_show_nowhere",
    ],
    "Payloads and header values are never logged": [
        CORE + "spi/test_receiver.py::test_a_refused_notify_is_counted_and_logged_without_its_content",
        CORE + "messages/test_envelope.py::test_the_header_with_control_characters_is_named_and_its_value_is_not_shown",
    ],
    "A file with a TLS key": [
        CORE + "spi/test_secret_files.py::test_a_file_that_everybody_can_read_or_write_is_warned_of",
        NATS + "test_security.py::test_a_secret_s_file_that_everybody_can_read_is_warned_of",
        REDIS + "test_security.py::test_a_tls_key_that_everybody_can_read_is_warned_of",
    ],
    # Errors of handlers
    "**Errors of handlers**": [CORE + "spi/test_answers.py::test_a_long_message_is_cut_to_1_kib"],
    "With `Node(errors": [
        CLUSTERS + "test_shown_errors.py::test_a_caller_is_told_as_much_of_an_exception_as_the_node_says"
    ],
    # Text of strangers
    "**Text of strangers**": [
        CORE + "test_text.py::test_nothing_that_is_left_steers_and_escaping_twice_is_escaping_once",
        CORE + "messages/test_error_wire.py::test_text_that_steers_a_terminal_or_a_log_arrives_escaped",
        CORE + "messages/test_envelope.py::test_control_characters_are_refused_in_the_type",
    ],
    "What strangers can cause": ["plugins/clstr-memory/tests/test_overload.py::"],
    # Clusters
    "**Clusters**": [CLUSTERS + "test_cluster_names.py::test_a_request_of_another_cluster_is_refused_and_counted"],
    # Stale work
    "**Stale work**": [
        CORE
        + "spi/test_dispatcher.py::test_what_has_expired_never_starts_even_if_the_slot_is_free_before_the_wheel_turns"
    ],
    "Clocks of two machines": [CORE + "spi/test_receiver.py::test_its_age_counts_from_reading_it"],
    # Encryption
    "**Encryption**": [
        NATS + "test_security.py::test_a_server_without_tls_gets_no_secret",
        REDIS + "test_security.py::test_a_server_without_tls_gets_no_secret",
    ],
    "Brokers in plaintext off loopback": [
        NATS + "test_link.py::test_plaintext_to_elsewhere_is_warned_of_once",
        REDIS + "test_dialer.py::test_plaintext_to_elsewhere_is_warned_of_once",
    ],
    "ZeroMQ refuses to bind": [
        ZMQ + "test_options.py::test_what_makes_no_sense_is_explained",
        ZMQ + "test_security.py::test_nobody_gets_in_while_nobody_answers_who_may",
    ],
    # Names of ZeroMQ peers
    "**Names** of ZeroMQ peers": [ZMQ + "test_security.py::test_a_peer_id_belongs_to_its_key"],
    "Another name's peer ids are refused": [
        ZMQ + "test_security.py::test_a_peer_id_belongs_to_its_key",
        ZMQ + "test_security.py::test_an_announcement_of_a_client_is_garbage",
    ],
    # Least rights
    "The pages of [NATS]": [
        NATS + "test_security.py::test_the_least_rights_are_enough",
        REDIS + "test_security.py::test_the_least_rights_are_enough",
    ],
    "The tests load those": [NATS + "test_security.py::documented_users", REDIS + "conftest.py::rights"],
    "With them a hostile client": [
        NATS + "test_security.py::test_a_hostile_client_sees_and_changes_nothing_of_its_neighbour_s",
        NATS + "test_security.py::test_a_client_may_not_own_a_shard",
        REDIS + "test_security.py::test_a_hostile_client_sees_and_changes_nothing_of_its_neighbour_s",
        REDIS + "test_security.py::test_a_client_may_not_own_a_shard",
    ],
    "A hostile node can neither": [
        NATS + "test_security.py::test_a_hostile_node_neither_hears_nor_answers_what_another_was_asked",
        REDIS + "test_security.py::test_a_hostile_node_neither_hears_nor_answers_what_another_was_asked",
    ],
    "On Redis 6.2": [],  # a limit, and no promise
}


def promises() -> list[str]:
    """Return the sentences of the sections that promise something."""
    page = (TOP / "SECURITY.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
    text = "\n".join(sections[title] for title in PROMISES)
    items = [" ".join(item.split()) for item in re.split(r"\n\n|^\* ", text, flags=re.MULTILINE)]
    return [sentence for item in items if item for sentence in re.split(r"(?<=\.) (?=[A-Z*])", item)]


@pytest.mark.parametrize("sentence", promises())
def test_a_promise_has_its_tests(sentence: str) -> None:
    """The table has no more than one entry for it, and what the entry names is there."""
    found = [tests for begin, tests in TESTED.items() if sentence.startswith(begin)]
    assert len(found) == 1, f"no test is known for: {sentence}"
    for test in found[0]:
        file, _, name = test.partition("::")
        assert re.search(rf"^(async )?def {name}\(" if name else "def test_", (TOP / file).read_text(), re.MULTILINE), (
            test
        )


def test_the_page_is_read_to_its_end() -> None:
    assert len(promises()) > 30
