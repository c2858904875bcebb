package shard

// Body is what a record says. It is encoded by whoever writes the log, after
// the change was published, not by the caller.
type Body interface{ AppendTo(dst []byte) []byte }

// Ticket stands for a record on its way to disk.
type Ticket interface {
	Durable() bool // nothing has to be waited for any more, and it did not fail
}

// Journal takes the records of changes. A table without one is in memory only.
type Journal interface {
	// Record makes a record that has to come after another one (nil: none) in
	// the log. It has no effect: a record that is not handed in is forgotten.
	Record(after Ticket, b Body) Ticket
	// Submit hands in a record whose change has been published. It does not
	// block. A record that is known as the predecessor of one that was handed
	// in may be written before. Handing in a record again does nothing.
	Submit(Ticket)
	// Wait waits until a record is as durable as chosen, and says why if it
	// never will be.
	Wait(Ticket) error
}

// durable reports whether nothing has to be waited for.
func durable(t Ticket) bool { return t == nil || t.Durable() }

// await waits until what k stands for is as durable as chosen.
func (t *Table) await(k Ticket) error {
	if k == nil {
		return nil
	}
	return t.journal.Wait(k)
}
