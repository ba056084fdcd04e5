"""What rankalloc remembers, in SQL. `Store.open` is the way in."""

from allocator.store import audit
from allocator.store.events import Event
from allocator.store.facade import Store
from allocator.store.items import Item, Progress
from allocator.store.jobs import Job
from allocator.store.paging import Page

__all__ = ["Event", "Item", "Job", "Page", "Progress", "Store", "audit"]
