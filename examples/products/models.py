"""What the API takes and gives."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from actorwork import Status

from .notifier import Sent

CENT = Decimal("0.01")

Price = Annotated[
    Decimal, Field(gt=0, max_digits=10, decimal_places=2), AfterValidator(lambda price: price.quantize(CENT))
]


class NewProduct(BaseModel):
    """A product as a client of the API describes it."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
    price: Price
    description: Annotated[str, StringConstraints(max_length=2000)] = ""


class Product(NewProduct):
    """A product that is kept, and the id of the task that announces it."""

    id: int
    task: str


class TaskInfo(BaseModel):
    """How far a notification is; `reason` says why it has failed, or is tried again."""

    attempt: int = 0
    sent: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    reason: str = ""


class Task(BaseModel):
    """A notification; a day after its end its status is UNKNOWN."""

    id: str
    status: Status
    result: Sent | None = None
    info: TaskInfo = TaskInfo()
