-- Its lines go by the foreign key's cascade.
\set back random(50, 500)
DELETE FROM purchase WHERE id = (SELECT max(id) - :back FROM purchase) AND NOT paid;
