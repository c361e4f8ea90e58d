module postern.dev/bench/webhook

go 1.22
