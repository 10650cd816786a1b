"""The quorum service: system changes, from Root's proposal through the witnesses' voices to the writer."""
