\set back random(0, 200)
UPDATE purchase SET paid = true WHERE id = (SELECT max(id) - :back FROM purchase);
