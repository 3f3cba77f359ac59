"""Write states and expert actions of CoinRun levels: a search finds short ways to the coin, and they are played again.

Runs in an environment of its own (`make coinrun-data`), since procgen needs numpy below 2. It imports nothing of firstcue.
The expert is a search and no trained agent: per level, random plays of mostly running and jumping to the right, of which
the shortest that reach the coin are kept. Actions are hard labels.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
from procgen import ProcgenGym3Env

ACTIONS = {"left": 1, "wait": 4, "jump": 5, "right": 7, "jump right": 8}
"""Names of the five actions that the search uses, and their numbers in the game."""
CODES = np.array(list(ACTIONS.values()), dtype=np.int32)
WEIGHTS = np.array([0.04, 0.03, 0.05, 0.44, 0.44])
LONGEST_HOLD = 10
COPIES = 64
TEST_LEVELS_FROM = 100_000


def game(level: int, copies: int) -> ProcgenGym3Env:
    """Copies of one easy level."""
    return ProcgenGym3Env(
        num=copies, env_name="coinrun", start_level=level, num_levels=1, distribution_mode="easy", rand_seed=0
    )


def search(level: int, rounds: int, steps: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Winning plays of a level, as arrays of action indices, the shortest first."""
    env = game(level, COPIES)
    played: list[list[int]] = [[] for _ in range(COPIES)]
    action, hold = np.zeros(COPIES, dtype=np.int64), np.zeros(COPIES, dtype=np.int64)
    wins: list[np.ndarray] = []
    for _ in range(rounds * steps):
        new = hold == 0
        action[new] = rng.choice(len(CODES), size=int(new.sum()), p=WEIGHTS)
        hold[new] = rng.integers(1, LONGEST_HOLD + 1, size=int(new.sum()))
        hold -= 1
        env.act(CODES[action])
        for i in range(COPIES):
            played[i].append(int(action[i]))
        _, _, first = env.observe()
        if first.any():
            info = env.get_info()
            for i in np.flatnonzero(first):
                if info[i]["prev_level_complete"]:
                    wins.append(np.array(played[i]))
                played[i], hold[i] = [], 0
    return sorted(wins, key=len)


def replay(level: int, plays: list[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures `(n, 3, size, size)` and action indices of the plays; those that do not end at the coin again are left out."""
    env = game(level, len(plays))
    frames: list[list[np.ndarray]] = [[] for _ in plays]
    won = np.zeros(len(plays), dtype=bool)
    for t in range(max(map(len, plays))):
        _, seen, _ = env.observe()
        small = smaller(seen["rgb"], size)
        codes = np.array([CODES[p[t]] if t < len(p) else 4 for p in plays], dtype=np.int32)
        for i, play in enumerate(plays):
            if t < len(play):
                frames[i].append(small[i])
        env.act(codes)
        _, _, first = env.observe()
        info = env.get_info()
        for i, play in enumerate(plays):
            won[i] |= t == len(play) - 1 and bool(first[i]) and bool(info[i]["prev_level_complete"])
    kept = np.flatnonzero(won)
    if not len(kept):
        return np.zeros((0, 3, size, size), np.uint8), np.zeros(0, np.int64)
    return np.concatenate([np.stack(frames[i]) for i in kept]), np.concatenate([plays[i] for i in kept])


def smaller(rgb: np.ndarray, size: int) -> np.ndarray:
    """`(n, 64, 64, 3)` pictures, averaged over blocks, channels first."""
    block = 64 // size
    blocks = rgb.reshape(len(rgb), size, block, size, block, 3).mean(axis=(2, 4))
    return blocks.transpose(0, 3, 1, 2).round().astype(np.uint8)


def states_of(level: int, states: int, size: int, rounds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """At most so many states of a level with the expert's action, drawn from its shortest plays."""
    rng = np.random.default_rng([seed, level])
    wins = search(level, rounds, 250, rng)
    if not wins:
        return np.zeros((0, 3, size, size), np.uint8), np.zeros(0, np.int64)
    shortest = len(wins[0])
    good, total = [], 0
    for play in wins:
        if total >= 2 * states or (good and len(play) > 1.5 * shortest):
            break
        good.append(play)
        total += len(play)
    x, y = replay(level, good[:256], size)
    rows = rng.permutation(len(y))[:states]
    return x[rows], y[rows]


def collect(levels: range, states: int, size: int, rounds: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States, actions and levels; levels that the search does not solve are passed over, and more are taken."""
    parts, solved, level = [], 0, levels.start
    while solved < len(levels):
        x, y = states_of(level, states, size, rounds, seed)
        if len(y):
            parts.append((x, y, np.full(len(y), level)))
            solved += 1
            if solved % 10 == 0:
                print(f"{solved} of {len(levels)} levels", flush=True)
        level += 1
    print(f"{len(levels)} levels solved of {level - levels.start} tried", flush=True)
    x, y, of_level = (np.concatenate(part) for part in zip(*parts, strict=True))
    return x, y, of_level


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("coinrun.npz"))
    parser.add_argument("--train-levels", type=int, default=64)
    parser.add_argument("--states", type=int, default=1000, help="per training level, at most")
    parser.add_argument("--test-levels", type=int, default=500)
    parser.add_argument("--test-states", type=int, default=4, help="per test level, at most")
    parser.add_argument("--size", type=int, choices=(16, 32, 64), default=32, help="of the pictures")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    start = time.process_time()
    train = collect(range(given.train_levels), given.states, given.size, 4, given.seed)
    first = TEST_LEVELS_FROM
    test = collect(range(first, first + given.test_levels), given.test_states, given.size, 1, given.seed)
    x, y, level = (np.concatenate(pair) for pair in zip(train, test, strict=True))
    names = np.array(list(ACTIONS))
    part = np.array(["train"] * len(train[1]) + ["test"] * len(test[1]))
    temporary = given.out.with_suffix(f".{os.getpid()}.tmp.npz")
    np.savez_compressed(temporary, x=x, y=names[y], level=level, part=part)
    os.replace(temporary, given.out)
    counts = {str(name): int((names[y] == name).sum()) for name in names}
    print(f"{given.out}: {len(y)} states, {counts}, {time.process_time() - start:.0f} CPU s")


if __name__ == "__main__":
    main()
