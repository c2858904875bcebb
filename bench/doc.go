// Package bench holds the benchmarks of a [sneck.Manager], one workload a
// function, and nothing that anybody could import.
//
//	W01  Lock and Unlock of one range of one file that nobody else uses
//	W02  the same on 100,000 files in random order, from all CPUs
//	W03  the same on a file on which others hold N disjoint ranges
//	W04  the same among N readers of the whole file
//	W06  Test and CheckIO among N ranges, from all CPUs and next to a writer
//	W07  Unlock of the middle of a range, on a file with 100,000 ranges
//	W11  Lock and Unlock with a log that is synced, one caller
//	W12  the same with 256 callers
//	W13  the same with a log that is not synced for each change, one caller
//	W15  Open: replay of a long log, and of a checkpoint
//	W16  a checkpoint of many locks while others lock and unlock
//
// Unless a comment says otherwise one operation is a pair: a range is locked
// and unlocked again, so that the table is the same before and after. Keys,
// owners and ranges are made before the clock starts.
//
// The functions are meant for two runs, -cpu 1 and -cpu 2: those that run on all CPUs give the
// time that passes per operation, so that half the figure on two CPUs is twice
// the throughput. Figures of different runs do not compare on a machine that
// does other things as well; where a ratio matters, the benchmark measures both
// sides in one run and reports it. With -short nothing is made a million of.
package bench
