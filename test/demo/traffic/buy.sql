\set customer random(1, 5000)
\set first random(1, :packages / 2)
\set second random(:packages / 2 + 1, :packages)
BEGIN;
INSERT INTO purchase (customer) VALUES (:customer) RETURNING id AS purchase \gset
INSERT INTO purchase_line VALUES (:purchase, 1, :first, 1), (:purchase, 2, :second, 2);
UPDATE package SET stock = stock - 1 WHERE id = :first;
UPDATE package SET stock = stock - 2 WHERE id = :second;
INSERT INTO event (at, kind, package, detail)
	VALUES (now(), 'sold', :first, jsonb_build_object('purchase', CAST(:purchase AS bigint)));
COMMIT;
