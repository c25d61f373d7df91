"""Steps that phases consist of, or share.

    answer_handling        what an answer changes in the state
    leadership             the next leader of a class
    recalling, lineage     rows of a found table, and which of several found tables is used
    consensus, peers, engine_tuning   within TUNING
    judges                 within GUARDING: verdicts of several devices
    engine_warmups         within REPLAYING
    node_loss              what a lost node leaves to do

A step knows no phase but by its name.
"""
