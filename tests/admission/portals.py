"""What the tests of the portal share: a loop turned by hand, and work to submit."""

from throttled_openai._admission.portal import Submission


def turn(loop, turns=1):
    """Let `loop` run what is ready, this many times; its clock stands still."""
    for _ in range(turns):
        loop.call_soon(loop.stop)
        loop.run_forever()


class Asked(Submission):
    """A submission made by the test, which checks for the result itself."""

    def __init__(self, portal, make, unwanted=None):
        self.woken = 0
        super().__init__(portal.loop, make, self.woke, unwanted)
        self.submit()

    def woke(self):
        self.woken += 1

    def result(self):
        assert self.woken == 1
        return super().result()
