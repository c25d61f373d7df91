"""From a question to the method of a rank that answers it, by the question's type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from ray_warmup.warmup.artifact.artifact import Blob
from ray_warmup.warmup.messages import questions
from ray_warmup.warmup.messages.answers import Answer
from ray_warmup.warmup.messages.questions import Question
from ray_warmup.warmup.rank.process import RankProcess


def answer(rank: RankProcess, question: Question, blobs: Mapping[str, Blob]) -> Answer:
    """Answer a question.

    `blobs` are those that the rank wanted of the artifact in the question.
    """
    match question:
        case questions.Probe():
            return rank.probe(question.budget_bytes, question.modules)
        case questions.Outline():
            return rank.outline()
        case questions.LookUp():
            return rank.look_up(question.token, question.retune)
        case questions.FindMarkers():
            return rank.find_markers(question.tokens)
        case questions.RecallTable():
            return rank.recall_table()
        case questions.RecallFinished():
            return rank.recall_finished()
        case questions.Survey():
            return rank.survey(question.tunes)
        case questions.Compile():
            return rank.compile()
        case questions.PackModules():
            return rank.pack_modules(question.modules)
        case questions.InstallModules():
            return rank.install_modules(question.header, blobs)
        case questions.ActivateModules():
            return rank.activate_modules(question.modules)
        case _:
            return _after_compiling(rank, question, blobs)


AfterCompiling = (
    questions.Tune
    | questions.Compare
    | questions.Vote
    | questions.TuneEngine
    | questions.Guard
    | questions.Pack
    | questions.PackStored
    | questions.Install
    | questions.Load
    | questions.Replay
    | questions.Warm
    | questions.Confirm
    | questions.Conclude
)


def _after_compiling(rank: RankProcess, question: AfterCompiling, blobs: Mapping[str, Blob]) -> Answer:
    match question:
        case questions.Tune():
            return rank.tune(question.task_id, question.quarantine, question.packs)
        case questions.Compare():
            return rank.compare(question)
        case questions.Vote():
            return rank.vote(question)
        case questions.TuneEngine():
            return rank.tune_engine()
        case questions.Guard():
            return rank.guard(question)
        case questions.Pack():
            return rank.pack(question)
        case questions.PackStored():
            return rank.pack_stored(question.renew)
        case questions.Install():
            return rank.install(question.header, blobs)
        case questions.Load():
            return rank.load(question.digest, question.header, blobs)
        case questions.Replay():
            return rank.replay()
        case questions.Warm():
            return rank.warm(question.left_out)
        case questions.Confirm():
            return rank.confirm()
        case questions.Conclude():
            return rank.conclude(question)
        case _:
            assert_never(question)
