"""What servers say of when to come again."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from checkpoints.transfer import seconds_of


def test_seconds_or_a_date_say_how_long_a_server_wants_to_be_left_alone():
    assert seconds_of("7") == 7.0
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True)
    assert 55 < seconds_of(in_a_minute) <= 60
    assert seconds_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


@pytest.mark.parametrize("header", [None, "", "soon", "-3", "9" * 5000, "Wed, 99 Oct 99999 07:28:00 GMT"])
def test_what_is_neither_says_nothing(header):
    assert seconds_of(header) is None
