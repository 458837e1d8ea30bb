"""Two members with two GPUs each find each other as torch.distributed would, on any engine; nothing here names one.

mainspring run examples/scenes/gang.py --replicas 2 --gpus 2 --label cluster=lab
"""

import os
import socket
import time

WAIT_S = 60.0


def meet(rank: str, place: tuple[str, int]) -> str:
    """Return what the other member says: the first one listens where all were told, the other one connects."""
    if rank == "0":
        door = socket.create_server(("", place[1]))
        door.settimeout(WAIT_S)
        other, _ = door.accept()
    else:
        until = time.monotonic() + WAIT_S
        while True:
            try:
                other = socket.create_connection(place, timeout=5)
                break
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
    other.sendall(rank.encode())
    return other.recv(1).decode()


if __name__ == "__main__":
    rank, world = os.environ["RANK"], os.environ["WORLD_SIZE"]
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    heard = meet(rank, (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))
    print(f"{rank} of {world} with {len([one for one in gpus.split(',') if one])} GPUs heard {heard}", flush=True)
