from agentaudit._native._twin import (
    assign as assign,
)
from agentaudit._native._twin import (
    by_slot as by_slot,
)
from agentaudit._native._twin import (
    crc32 as crc32,
)
from agentaudit._native._twin import (
    extend_tree as extend_tree,
)
from agentaudit._native._twin import (
    gather as gather,
)
from agentaudit._native._twin import (
    hash_rows as hash_rows,
)
from agentaudit._native._twin import (
    holders as holders,
)
from agentaudit._native._twin import (
    json_columns as json_columns,
)
from agentaudit._native._twin import (
    lookup as lookup,
)
from agentaudit._native._twin import (
    marked as marked,
)
from agentaudit._native._twin import (
    pack as pack,
)
from agentaudit._native._twin import (
    places_of as places_of,
)
from agentaudit._native._twin import (
    scan as scan,
)
from agentaudit._native._twin import (
    unpack as unpack,
)
from agentaudit._native._twin import (
    without_numbers as without_numbers,
)

def use_sha256(init: int, update: int, final: int) -> None: ...
