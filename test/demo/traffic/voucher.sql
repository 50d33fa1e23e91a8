-- A savepoint whose work is taken back, between work that stays.
\set customer random(1, 5000)
\set package random(1, :packages)
BEGIN;
INSERT INTO voucher (customer, worth) VALUES (:customer, 5);
SAVEPOINT maybe;
UPDATE customer SET name = 'never seen' WHERE id = :customer;
INSERT INTO event (at, kind, package) VALUES (now(), 'never seen', :package);
ROLLBACK TO maybe;
UPDATE package SET price = price + 0.01, tags = tags || 'campaign::voucher'::text WHERE id = :package;
COMMIT;
