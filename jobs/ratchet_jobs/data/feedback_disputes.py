"""How much people or versions disagree about a prompt: the committee of active learning, made of whoever was there.

Decides what counts as disagreement, from 0 = none to 1 = each says something else; a prompt has the greatest of three:

    people     twice the standard deviation of their scores of one and the same answer, which is 1 for up against down
    corrected  vote entropy of what people want instead, over the entropy of all wanting something else
    versions   vote entropy of what versions answered, likewise

Only events that name a person count among people: without a name one sender could quarrel with itself. Rounded, so that
the order in which a sum was made changes nothing. Works on the table `votes`; called by the snapshot's rows.
"""

from __future__ import annotations

DISPUTES = """
CREATE TABLE disputed AS
WITH said AS (SELECT prompt, answer, version, subject, score, correction FROM votes
              WHERE prompt IS NOT NULL AND NOT superseded AND list_contains($aside, subject) IS NOT TRUE),
     person AS (SELECT prompt, answer, subject, avg(score) AS score FROM said
                WHERE score IS NOT NULL AND answer IS NOT NULL AND subject IS NOT NULL GROUP BY ALL),
     people AS (SELECT prompt, 2 * stddev_pop(score) AS dispute FROM person
                GROUP BY prompt, answer HAVING count(*) >= 2),
     wanted AS (SELECT DISTINCT prompt, subject, correction FROM said
                WHERE correction IS NOT NULL AND subject IS NOT NULL),
     corrected AS (SELECT prompt, entropy(correction) / log2(count(*)) AS dispute FROM wanted
                   GROUP BY prompt HAVING count(DISTINCT subject) >= 2),
     answered AS (SELECT DISTINCT prompt, version, answer FROM said
                  WHERE answer IS NOT NULL AND version IS NOT NULL),
     versions AS (SELECT prompt, entropy(answer) / log2(count(*)) AS dispute FROM answered
                  GROUP BY prompt HAVING count(DISTINCT version) >= 2)
SELECT prompt, round(max(dispute), 6) AS dispute
FROM (FROM people UNION ALL FROM corrected UNION ALL FROM versions) GROUP BY prompt HAVING max(dispute) > 0.0000005
"""
