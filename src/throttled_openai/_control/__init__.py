"""DECIDE. What may be sent now, from evidence: no I/O, no waiting, no SDK. Time is an argument.

The theory
==========

An attempt may go when everything that could hold it back lets it:

- no **pause** is in force (`backoff`);
- the **slow start** lets one more leave, while the server has not answered anything yet (`slow_start`);
- the **pacer** of each dimension (requests, tokens) has room: a small bucket, refilled at the rate of the known
  limits or at the rate that refusals have taught (`pacer`, `rate_learner`, `bucket`);
- every **server window** has room: our picture of a bucket that the server announces (`announced_limits`,
  `server_window`);
- fewer attempts are in flight than the **concurrency limit** (`concurrency`, `latency_gradient`).

It takes its cost (`cost_model`) from all of them in one step (`budget`). Then evidence comes back:

1. **A response moves a window.** It shows what the server had left when it admitted that attempt. The window compares
   that with what it believed when the attempt left, and corrects itself in part.
2. **A refusal is diagnosed once** (`diagnosis`). It empties a window, or slows the pacer, or cuts concurrency. What
   left before the last refusal that counted is an echo of it: it corrects levels, but cuts nothing again.
3. **Only time in which a limit was binding teaches.** A burst, a rate and a concurrency limit grow only while they
   hold calls back. Silence counts as good news only for as long as bad news needs to arrive.
4. **What does not help is taken back** (`doubt`). If refusals come as often after a cut as before it, they had another
   reason: the limit returns to where it was. A limit that was announced only once holds calls for a second at most
   (`sightings`).

Evidence x mechanism
====================

==============================  ============  ============  ===========  ============  =====================
evidence                        server        pacer         concurrency  pause         also
                                window
==============================  ============  ============  ===========  ============  =====================
an attempt leaves               takes cost    takes cost    counts it    .             slow start: doubles
nothing, while calls wait       refills       burst grows   grows        .             .
a success                       .             .             grows, if    row ends      slow start ends
                                                            binding
a success where latency grew    .             .             shrinks (a)  .             .
limit announced                 resized       rate set      .            .             periods: a vote
"remaining" announced           corrected     burst may     .            .             cost model: the cost
                                              grow to 1 min                            between two attempts
usage reported                  settled       settled       .            .             cost model: the ratio
refused, a window is known      emptied       (b)           .            if it names   .
                                                                         a wait (d)
refused for a rate, no window   .             learner cuts, .            a named wait  .
                                              burst halves               (d), or again
refused for capacity            .             .             cut to what  if nothing    .
                                                            was served   is in flight
refused without a reason (c)    (c)           (c)           (c)          if refused    doubt: did less help?
                                                                         again
timeout, broken gateway         .             .             cut, if many .             (e)
refused for billing, or asked   .             .             .            .             (e)
to wait for hours
==============================  ============  ============  ===========  ============  =====================

(a) Only where the server neither announces nor refuses anything: a server that queues.
(b) Untouched, unless the server announces that the window had room: then a shorter window is hidden behind it.
(c) Counts against what was holding calls back when it came, since that may be set too high: a bucket that is nearly
    empty (a rate), or else the concurrency limit. Where no rate is known yet, against both.
(d) Not where tokens are what is short: a bucket in debt holds back large attempts and lets small ones through, as the
    server does; a pause would stop both.
(e) Whether calls wait at all is decided before the budget is asked: `_admission.breaker`, `_admission.patience`.
"""
