"""The options of reasoning-gym: which datasets, how often each, and how hard they are."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tinyzero.registry import suggest
from tinyzero.tasks.base import DataSeed
from tinyzero.tasks.reasoning_gym.catalogue import (
    DATASETS,
    HIGHEST_LEVEL,
    REJECTED,
    WITHOUT_LEVELS,
)


def _as_list(value: Any) -> Any:
    """A text such as "gcd, lcm" as a list, because the command line has no brackets."""
    if not isinstance(value, str):
        return value
    return [name.strip() for name in value.strip("[] ").split(",") if name.strip()]


class ReasoningGymOptions(BaseModel):
    """Which problems are drawn, and how they are answered."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    datasets: Annotated[list[str], BeforeValidator(_as_list)] = Field(
        default=["chain_sum"],
        description="datasets of reasoning-gym, with commas between them, as in chain_sum,gcd",
    )
    weights: dict[str, Annotated[float, Field(le=1000)]] = Field(
        default={},
        description="how often each dataset is drawn, as in {chain_sum = 2}; 1 if it is not named",
    )
    level: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="level of difficulty, from 0, in the curricula of reasoning-gym; by default "
        "the datasets have their own default settings",
    )
    config: dict[str, Any] = Field(
        default={},
        description="settings of the datasets, as in {chain_sum = {min_terms = 2}}, or "
        "{min_terms = 2} if there is only one dataset",
    )
    answer_only: bool = Field(
        default=False,
        description="the completion is the answer alone, without <think> and <answer>: for the "
        "prompt template instruct-short",
    )
    data_seed: DataSeed = 0

    @model_validator(mode="after")
    def _datasets_exist(self) -> ReasoningGymOptions:
        if not self.datasets:
            raise ValueError("datasets is empty: name at least one, such as chain_sum")
        for name in self.datasets:
            if name in REJECTED:
                raise ValueError(f"dataset {name} is rejected: {REJECTED[name]}")
            if name not in DATASETS:
                raise ValueError(f"unknown dataset {name!r}{suggest(name, DATASETS)}")
        if len(set(self.datasets)) < len(self.datasets):
            raise ValueError(f"datasets {self.datasets} names one twice: use weights instead")
        return self

    @model_validator(mode="after")
    def _weights_are_of_the_datasets(self) -> ReasoningGymOptions:
        for name, weight in self.weights.items():
            if name not in self.datasets:
                raise ValueError(f"weights names {name}{suggest(name, self.datasets)}")
            if not 0 < weight < float("inf"):
                raise ValueError(f"the weight of {name} is {weight}: use a number above 0")
        return self

    @model_validator(mode="after")
    def _levels_exist(self) -> ReasoningGymOptions:
        without = [name for name in self.datasets if name in WITHOUT_LEVELS]
        if self.level is not None and without:
            raise ValueError(f"{without[0]} has no levels: leave level out, or use config")
        for name in self.datasets:
            highest = HIGHEST_LEVEL.get(name)
            if self.level is not None and highest is not None and self.level > highest:
                raise ValueError(f"the highest level of {name} is {highest}: lower level")
        return self

    @model_validator(mode="after")
    def _settings_can_be_chosen(self) -> ReasoningGymOptions:
        for name in self.datasets:
            settings = self.settings_of(name)
            for reserved in ("seed", "size"):
                if reserved in settings:
                    raise ValueError(
                        f"config.{reserved} cannot be chosen: data_seed chooses the problems"
                    )
        if len(self.datasets) > 1:
            for name, settings in self.config.items():
                if name not in self.datasets or not isinstance(settings, dict):
                    raise ValueError(
                        f"config.{name} is not the table of a dataset in use: write "
                        f"{{{self.datasets[0]} = {{...}}}}"
                    )
        return self

    def settings_of(self, dataset: str) -> dict[str, Any]:
        """The settings that are chosen for a dataset.

        >>> ReasoningGymOptions(config={"min_terms": 2}).settings_of("chain_sum")
        {'min_terms': 2}
        """
        if len(self.datasets) == 1 and not isinstance(self.config.get(dataset), dict):
            return self.config
        settings: dict[str, Any] = self.config.get(dataset, {})
        return settings if isinstance(settings, dict) else {}
