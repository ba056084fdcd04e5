"""Found through PYTHONPATH by processes that tests start: puts scripted stages in place of the real ones."""

from tests.support.stages import install

install()
