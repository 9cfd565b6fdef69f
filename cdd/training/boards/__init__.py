"""Boards: name -> what shows a run beside its log.jsonl; `config.log.NAME` turns one on."""

from cdd.training.boards.board import Board
from cdd.training.boards.tensorboard import TensorBoard
from cdd.training.boards.wandb import WandB

BOARDS = dict(
  tensorboard=Board(TensorBoard, bool),
  wandb=Board(WandB, str | None, words='the name of a project, or None'),
)
