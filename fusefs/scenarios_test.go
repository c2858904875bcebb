package fusefs_test

import "testing"

// The scenarios that LTP's fcntl programs describe, written anew.
func TestLTPFcntl(t *testing.T) {
	scripts(t, []scenario{
		{"fcntl11: a read lock over the front of a write lock", `
			A open $f rw,creat -> ok 3
			A setlk 3 w 10 5 -> ok
			A setlk 3 r 5 6 -> ok
			locks A:r[5,10] A:w[11,14]`},
		{"fcntl11: a read lock over the back of a write lock", `
			A open $f rw,creat -> ok 3
			A setlk 3 w 10 5 -> ok
			A setlk 3 r 13 7 -> ok
			locks A:w[10,12] A:r[13,19]`},
		{"fcntl11: a read lock in the middle of a write lock", `
			A open $f rw,creat -> ok 3
			A setlk 3 w 10 10 -> ok
			A setlk 3 r 13 4 -> ok
			locks A:w[10,12] A:r[13,16] A:w[17,19]`},
		{"fcntl11: a read lock exactly on a write lock", `
			A open $f rw,creat -> ok 3
			A setlk 3 w 10 5 -> ok
			A setlk 3 r 10 5 -> ok
			locks A:r[10,14]`},
		{"fcntl11: adjacent locks of one mode merge", `
			A open $f rw,creat -> ok 3
			A setlk 3 w 10 5 -> ok
			A setlk 3 w 5 5 -> ok
			A setlk 3 w 15 5 -> ok
			locks A:w[5,19]`},
		{"fcntl11: adjacent locks of different modes do not", `
			A open $f rw,creat -> ok 3
			A setlk 3 w 10 5 -> ok
			A setlk 3 r 5 5 -> ok
			A setlk 3 r 15 5 -> ok
			locks A:r[5,9] A:w[10,14] A:r[15,19]`},
		{"fcntl11: one lock over several", `
			A open $f rw,creat -> ok 3
			A setlk 3 w 10 5 -> ok
			A setlk 3 r 20 5 -> ok
			A setlk 3 w 30 5 -> ok
			A setlk 3 w 12 20 -> ok
			locks A:w[10,34]`},
		{"fcntl14: every pair of modes, overlapping or not", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 r 5 5 -> ok
			B getlk 3 r 0 0 -> ok free
			B getlk 3 w 0 0 -> ok r 5 5 @A
			B getlk 3 w 0 5 -> ok free
			B getlk 3 w 0 6 -> ok r 5 5 @A
			B getlk 3 w 9 1 -> ok r 5 5 @A
			B getlk 3 w 10 0 -> ok free
			A setlk 3 w 5 5 -> ok
			B getlk 3 r 0 5 -> ok free
			B getlk 3 r 0 6 -> ok w 5 5 @A
			B getlk 3 r 9 0 -> ok w 5 5 @A
			B getlk 3 r 10 1 -> ok free`},
		{"fcntl14: from the end, to the end, and backwards", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A write 3 0123456789 -> ok
			A setlk 3 w -5 0 2 -> ok
			B getlk 3 w 0 0 -> ok w 5 0 @A
			B setlk 3 w 5 -5 -> ok
			A getlk 3 r 0 0 -> ok w 0 5 @B
			A setlk 3 w -5 -1 2 -> err EAGAIN`},
		{"fcntl15: close of a dup drops the locks taken through the first", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A dup 3 -> ok 4
			A setlk 3 w 0 5 -> ok
			A setlk 4 w 10 5 -> ok
			B setlk 3 w 0 5 -> err EAGAIN
			A close 4 -> ok
			B setlk 3 w 0 0 -> ok`},
		{"fcntl15: close of another open file of the same file drops them too", `
			A open $f rw,creat -> ok 3
			A open $f rw -> ok 4
			B open $f rw -> ok 3
			A setlk 3 w 0 5 -> ok
			A setlk 4 w 10 5 -> ok
			A close 4 -> ok
			B setlk 3 w 0 0 -> ok`},
		{"fcntl15: but not close by a child", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 0 5 -> ok
			A fork -> @pid
			A child close 3 -> ok
			B setlk 3 w 0 0 -> err EAGAIN
			A child exit -> ok gone
			B setlk 3 w 0 0 -> err EAGAIN
			A close 3 -> ok
			B setlk 3 w 0 0 -> ok`},
		{"fcntl16: a writer waits for readers one by one", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			C open $f rw -> ok 3
			A setlk 3 r 0 5 -> ok
			B setlk 3 r 3 5 -> ok
			C setlkw 3 w 0 10 ...
			A setlk 3 u 0 0 -> ok
			waiters 1
			B setlk 3 u 0 0 -> ok
			C => ok
			locks C:w[0,9]`},
		{"fcntl16: a reader waits for the last written byte", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 0 10 -> ok
			B setlkw 3 r 5 10 ...
			A setlk 3 u 6 4 -> ok
			waiters 1
			A setlk 3 r 0 6 -> ok
			B => ok
			locks A:r[0,5] B:r[5,14]`},
		{"fcntl18: what makes no sense", `
			A open $f rw,creat -> ok 3
			A setlk 99 w 0 0 -> err EBADF
			A getlk 99 w 0 0 -> err EBADF
			A setlk 3 w 0 0 7 -> err EINVAL
			A setlk 3 w -1 0 -> err EINVAL
			A getlk 3 u 0 0 -> err EINVAL`},
		{"fcntl19: unlock front, back, middle, beyond, everything of write locks", `
			A open $f rw,creat -> ok 3
			A setlk 3 w 10 10 -> ok
			A setlk 3 u 5 7 -> ok
			locks A:w[12,19]
			A setlk 3 u 18 10 -> ok
			locks A:w[12,17]
			A setlk 3 u 14 2 -> ok
			locks A:w[12,13] A:w[16,17]
			A setlk 3 u 14 2 -> ok
			locks A:w[12,13] A:w[16,17]
			A setlk 3 u 13 4 -> ok
			locks A:w[12,12] A:w[17,17]
			A setlk 3 u 0 0 -> ok
			locks`},
		{"fcntl20: the same of read locks", `
			A open $f rw,creat -> ok 3
			A setlk 3 r 10 10 -> ok
			A setlk 3 u 5 7 -> ok
			A setlk 3 u 18 10 -> ok
			A setlk 3 u 14 2 -> ok
			locks A:r[12,13] A:r[16,17]
			A setlk 3 u 12 2 -> ok
			locks A:r[16,17]
			A setlk 3 u 0 100 -> ok
			locks`},
		{"fcntl21: of mixed locks", `
			A open $f rw,creat -> ok 3
			A setlk 3 r 10 10 -> ok
			A setlk 3 w 13 4 -> ok
			locks A:r[10,12] A:w[13,16] A:r[17,19]
			A setlk 3 u 12 2 -> ok
			locks A:r[10,11] A:w[14,16] A:r[17,19]
			A setlk 3 w 11 3 -> ok
			locks A:r[10,10] A:w[11,16] A:r[17,19]
			A setlk 3 r 11 6 -> ok
			locks A:r[10,19]`},
		{"fcntl22: EAGAIN at once, whatever the modes", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 0 0 -> ok
			B setlk 3 w 0 0 -> err EAGAIN
			B setlk 3 r 5 1 -> err EAGAIN
			A setlk 3 r 0 0 -> ok
			B setlk 3 w 5 1 -> err EAGAIN
			B setlk 3 r 5 1 -> ok`},
		{"fcntl34: OFD locks of several open files of one process exclude each other", `
			A open $f rw,creat -> ok 3
			A open $f rw -> ok 4
			A osetlk 3 w 0 0 -> ok
			A osetlk 4 w 0 0 -> err EAGAIN
			A osetlk 3 u 0 0 -> ok
			A osetlk 4 w 0 0 -> ok
			A osetlk 3 r 0 1 -> err EAGAIN`},
	})
}

// The scenarios that LTP's flock programs describe, written anew.
func TestLTPFlock(t *testing.T) {
	scripts(t, []scenario{
		{"flock01: each operation works", `
			A open $f r,creat -> ok 3
			A flock 3 sh -> ok
			A flock 3 un -> ok
			A flock 3 ex -> ok
			A flock 3 un -> ok`},
		{"flock02: a descriptor that is none", `
			A flock 99 sh -> err EBADF`},
		{"flock03: a child unlocks for its parent", `
			A open $f rw,creat -> ok 3
			A flock 3 ex -> ok
			A fork -> @pid
			A child open $f rw -> ok 6
			A child flock 6 ex nb -> err EAGAIN
			A child flock 3 un -> ok
			A child flock 6 ex nb -> ok
			A flock 3 ex nb -> err EAGAIN`},
		{"flock04: which modes exclude which", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A flock 3 sh -> ok
			B flock 3 sh nb -> ok
			B flock 3 un -> ok
			B flock 3 ex nb -> err EAGAIN
			A flock 3 ex -> ok
			B flock 3 sh nb -> err EAGAIN
			B flock 3 ex nb -> err EAGAIN`},
		{"flock05: a lock is of the open file, not of the descriptor", `
			A open $f rw,creat -> ok 3
			A dup 3 -> ok 4
			A flock 3 ex -> ok
			A flock 4 ex nb -> ok
			A flock 4 un -> ok
			B open $f rw -> ok 3
			B flock 3 ex nb -> ok`},
		{"flock06: two open files of one process exclude each other", `
			A open $f rw,creat -> ok 3
			A open $f rw -> ok 4
			A flock 3 ex -> ok
			A flock 4 ex nb -> err EAGAIN
			A flock 3 un -> ok
			A flock 4 ex nb -> ok`},
	})
}

// The scenarios that Connectathon's tlock tests 1 to 13 describe, written
// anew. Tests 8 and 9 are a rate and mandatory locks: nothing to see here.
func TestConnectathon(t *testing.T) {
	scripts(t, []scenario{
		{"1: nothing is locked", `
			A open $f rw,creat -> ok 3
			A getlk 3 w 0 1 -> ok free
			A getlk 3 w 0 0 -> ok free
			A getlk 3 w 1 1 -> ok free
			A getlk 3 w 1 0 -> ok free
			A getlk 3 w 9223372036854775807 1 -> ok free`},
		{"2: the whole file", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 0 0 -> ok
			B getlk 3 w 0 1 -> ok w 0 0 @A
			B getlk 3 w 0 0 -> ok w 0 0 @A
			B getlk 3 w 1 1 -> ok w 0 0 @A
			B getlk 3 w 9223372036854775807 1 -> ok w 0 0 @A
			A setlk 3 u 0 0 -> ok
			B getlk 3 w 0 0 -> ok free`},
		{"3: the first byte", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 0 1 -> ok
			B getlk 3 w 0 1 -> ok w 0 1 @A
			B getlk 3 w 0 0 -> ok w 0 1 @A
			B getlk 3 w 1 1 -> ok free
			B getlk 3 w 1 0 -> ok free`},
		{"4: the second byte", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 1 1 -> ok
			B getlk 3 w 0 1 -> ok free
			B getlk 3 w 0 2 -> ok w 1 1 @A
			B getlk 3 w 0 0 -> ok w 1 1 @A
			B getlk 3 w 1 1 -> ok w 1 1 @A
			B getlk 3 w 1 0 -> ok w 1 1 @A
			B getlk 3 w 2 1 -> ok free
			B getlk 3 w 2 0 -> ok free`},
		{"5: the first and third byte", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 0 1 -> ok
			A setlk 3 w 2 1 -> ok
			B getlk 3 w 0 0 -> ok w 0 1 @A
			B getlk 3 w 1 1 -> ok free
			B getlk 3 w 1 2 -> ok w 2 1 @A
			B getlk 3 w 1 0 -> ok w 2 1 @A
			B getlk 3 w 3 0 -> ok free
			B setlk 3 w 1 1 -> ok
			A getlk 3 w 0 0 -> ok w 1 1 @B`},
		{"6: the last byte there can be", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 9223372036854775807 1 -> ok
			B getlk 3 w 9223372036854775806 1 -> ok free
			B getlk 3 w 9223372036854775806 0 -> ok w 9223372036854775807 0 @A
			B getlk 3 w 9223372036854775807 1 -> ok w 9223372036854775807 0 @A
			B setlk 3 w 0 9223372036854775807 -> ok
			B setlk 3 w 9223372036854775807 2 -> err EOVERFLOW`},
		{"7: what is written under a lock is read under the next", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 0 0 -> ok
			B setlkw 3 w 0 0 ...
			A pwrite 3 0 written -> ok
			A setlk 3 u 0 0 -> ok
			B => ok
			B pread 3 0 100 -> ok written
			A setlkw 3 r 0 0 ...
			B pwrite 3 0 rewrite -> ok
			B setlk 3 u 0 0 -> ok
			A => ok
			A pread 3 0 100 -> ok rewrite`},
		{"10: a locked range is split", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 0 3 -> ok
			A setlk 3 u 1 1 -> ok
			B getlk 3 w 0 1 -> ok w 0 1 @A
			B getlk 3 w 2 1 -> ok w 2 1 @A
			B getlk 3 w 3 0 -> ok free
			B getlk 3 w 1 1 -> ok free
			A setlk 3 u 0 1 -> ok
			A setlk 3 u 2 1 -> ok
			locks
			A setlk 3 w 1 0 -> ok
			A setlk 3 u 2 1 -> ok
			locks A:w[1,1] A:w[3,EOF]`},
		{"11: close of a dup releases", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A dup 3 -> ok 4
			A setlk 3 w 29 1463 -> ok
			A setlk 4 w 8192 87 -> ok
			A close 4 -> ok
			B setlk 3 w 29 1463 -> ok
			B setlk 3 w 8192 87 -> ok`},
		{"12: death by a signal releases", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			B setlk 3 w 0 0 -> ok
			A setlk 3 w 0 0 -> err EAGAIN
			B INT
			locks
			A setlk 3 w 0 0 -> ok`},
		{"13: mappings and locks do not mind each other", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A write 3 0123456789 -> ok
			A setlk 3 w 0 0 -> ok
			A mmapwrite 3 2 ab -> ok
			B mmapread 3 0 5 -> ok 01ab4
			B getlk 3 w 0 0 -> ok w 0 0 @A`},
	})
}
