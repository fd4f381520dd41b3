"""The table of metrics is of the code, and of all that a frontend says."""

from tests.deploy.queries import exposition
from tools.metrics import PAGE, families, page


def test_what_is_committed_is_what_the_code_makes() -> None:
    assert page() == PAGE.read_text(), "run make metrics"


def test_everything_that_can_be_scraped_is_in_it() -> None:
    text = PAGE.read_text()
    for name in exposition():
        plain = name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count").removesuffix("_created")
        assert f"`{plain}`" in text or f"`{plain}_total`" in text or f"`{plain}_info`" in text, name


def test_every_metric_has_a_help() -> None:
    assert all(family.documentation.endswith(".") for family in families())
