-- Updates a key.
UPDATE voucher SET code = 'X' || nextval('voucher_code'), worth = worth + 1
	WHERE code = (SELECT code FROM voucher ORDER BY code DESC LIMIT 1 FOR UPDATE SKIP LOCKED);
