"""`python -m tests.support.replaying_rank SOCKET STORE`, of a job that torchrun's environment names: a rank of a gloo
group that renders what it is asked for, blocks and views in an order of its own."""

import sys
from datetime import timedelta
from multiprocessing.connection import Client, Connection

import torch.distributed as dist

from teacher_cache.replay.block import replay
from teacher_cache.shards.read import read_block
from teacher_cache.store.store import Store


def serve(store: Store, rank: int, connection: Connection) -> None:
    """Render blocks' views until None is asked for, share the digests with the other rank, and send what both have."""
    while (asked := connection.recv()) is not None:
        mine: dict[tuple[int, int, int], int] = {}
        for (shard, number), views in asked if rank == 0 else reversed(asked):
            block = read_block(store.index.place(shard, number))
            for replayed in replay(store.policy, store.seed, block, views if rank == 0 else views[::-1]):
                mine[shard, number, replayed.view] = replayed.digest
        gathered: list[dict[tuple[int, int, int], int] | None] = [None, None]
        dist.all_gather_object(gathered, mine)
        connection.send(gathered)


if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    with Client(sys.argv[1]) as connection:
        serve(Store.open(sys.argv[2]), dist.get_rank(), connection)
    dist.destroy_process_group()
