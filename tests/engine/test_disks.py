"""Disks that are full are named; what is no disk, or is not there, is none."""

import asyncio
import os
from pathlib import Path

import pytest

from engine import disks as disks_module
from engine.disks import Disks

GIB = 1 << 30


def disk(
    *, size: int = GIB, free: int = GIB, files: int = 100, free_files: int = 50, flag: int = 0
) -> os.statvfs_result:
    block = 1024
    return os.statvfs_result(
        (block, block, size // block, free // block, free // block, files, free_files, free_files, flag, 255)
    )


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        (disk(), ""),
        (disk(free=2 << 20), ""),
        (disk(free=300 << 10), "is full: 300 KiB are left"),
        (disk(size=4 << 20, free=300 << 10), ""),  # so small a disk has less to spare
        (disk(size=4 << 20, free=0), "is full: 0 KiB are left"),
        (disk(free_files=0), "takes no more files"),
        (disk(files=0, free_files=0), ""),  # a file system that does not count them
        (disk(size=0, free=0, files=0), ""),  # a pipe, a terminal
        (disk(free=0, flag=os.ST_RDONLY), ""),
    ],
)
async def test_what_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: os.statvfs_result, complaint: str
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: found if path == str(tmp_path) else disk())
    told: asyncio.Queue[str] = asyncio.Queue()
    disks = Disks([str(tmp_path)], told.put_nowait)
    running = asyncio.create_task(disks.run())
    if complaint:
        assert await asyncio.wait_for(told.get(), 10) == disks.full == f"the disk that holds {tmp_path} {complaint}"
    else:
        assert disks._look() == ""
    running.cancel()


async def test_room_again_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks_module, "LOOK_S", 0.001)
    found = [disk(free=0)]
    monkeypatch.setattr(os, "statvfs", lambda _: found[-1])
    told: asyncio.Queue[str] = asyncio.Queue()
    running = asyncio.create_task(Disks([str(tmp_path)], told.put_nowait).run())
    async with asyncio.timeout(10):
        assert "is full" in await told.get()
        found.append(disk())
        assert await told.get() == ""
    running.cancel()


async def test_what_is_not_there_is_not_full(tmp_path: Path) -> None:
    assert Disks([str(tmp_path / "nothing")])._look() == ""
