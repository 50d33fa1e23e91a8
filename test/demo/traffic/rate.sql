\set customer random(1, 50)
\set package random(1, 50)
\set stars random(1, 5)
INSERT INTO rating (customer, package, stars) VALUES (:customer, :package, :stars)
	ON CONFLICT (customer, package) DO UPDATE SET stars = excluded.stars, times = rating.times + 1;
