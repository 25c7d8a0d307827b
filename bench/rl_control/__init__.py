"""Classic control tasks: do the algorithms learn what CleanRL's do?"""
