"""Language models as policies: loading a base, wording turns as tokens, answering, and the files of a policy."""
