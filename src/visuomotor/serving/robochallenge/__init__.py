"""RoboChallenge: a client of the platform that owns the robots, and a mock of it for tests and rehearsal.

platform = Platform(Connection("http://127.0.0.1:9098", user="TOKEN"))
settings = JobSettings(task="open_the_drawer")
JobLoop(platform, load_policy("checkpoint"), Convention(robot="arx5"), settings).run("COLLECTION")
"""
