"""Stream maps and flattening of the SDK, on a slow path of their own: record by record, through simpleeval."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

from singer_sdk.mapper import PluginMapper

from target_resilient.reader import Envelope, Frame, MappedFrame


class Mapping:
    """Applies `stream_maps` and `flattening_enabled` of the configuration."""

    def __init__(self, config: dict[str, Any], logger: logging.Logger) -> None:
        self._mapper = PluginMapper(plugin_config=config, logger=logger)

    def schemas(
        self, stream: str, schema: dict[str, Any], key: tuple[str, ...]
    ) -> Iterator[tuple[str, dict[str, Any], tuple[str, ...]]]:
        """(name, schema, key) of every stream that this one becomes."""
        self._mapper.register_raw_stream_schema(stream, schema, list(key))
        for stream_map in self._mapper.stream_maps[stream]:
            yield (
                stream_map.stream_alias,
                stream_map.transformed_schema,
                tuple(stream_map.transformed_key_properties or ()),
            )

    def frames(self, frame: Frame) -> Iterator[Frame]:
        """The frame's records as every stream that this one becomes has them; filtered ones are gone."""
        for stream_map in self._mapper.stream_maps.get(frame.stream, []):
            messages: list[Envelope] = []
            rows: list[int] = []
            for row, message in enumerate(frame.messages):
                record = stream_map.transform(copy.deepcopy(message.record))
                if record is not None:
                    mapped = Envelope("RECORD", stream_map.stream_alias, record, version=message.version)
                    mapped.time_extracted = message.time_extracted
                    messages.append(mapped)
                    rows.append(row)
            if messages:
                yield MappedFrame(stream_map.stream_alias, messages, frame.chunk, frame.offset, rows)
