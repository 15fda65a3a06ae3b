"""A model changing: the adapter, the learner that moves it, and the history of its versions."""
