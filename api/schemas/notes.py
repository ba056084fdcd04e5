"""Bodies and answers of the API about labels and comments on plans."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from allocator.base.document import Timestamp
from allocator.store.notes import LONGEST_COMMENT
from api.schemas.aliases import AliasOut
from api.schemas.requests import Body, examples


class CommentText(Body):
    """Something to say about a plan."""

    model_config = examples({"text": "Held up on the support transcripts too."})

    text: Annotated[str, Field(min_length=1, max_length=LONGEST_COMMENT)] = Field(
        examples=["Held up on the support transcripts too."]
    )


class LabelOut(BaseModel):
    """A word on a plan."""

    label: str
    created_by: str
    created_at: Timestamp


class CommentOut(BaseModel):
    """A comment on a plan."""

    id: int
    text: str
    created_by: str
    created_at: Timestamp


class Notes(BaseModel):
    """Aliases, labels and comments beside a plan, which itself never changes."""

    plan: str
    aliases: list[AliasOut] = Field(description="The newest 200 that point at it now.")
    labels: list[LabelOut]
    comments: list[CommentOut] = Field(description="Newest first.")
    next_cursor: str | None = Field(description="Of the comments.")
