package shard

// Body is what a record says. It is encoded by whoever writes the log, after
// the change was published, not by the caller.
type Body interface{ AppendTo(dst []byte) []byte }

// Ticket stands for a record on its way to disk.
type Ticket interface {
	Done() <-chan struct{} // closed when the record is as durable as chosen, or never will be
	Err() error            // after Done: nil if it is durable
}

// Journal takes the records of changes. A table without one is in memory only.
type Journal interface {
	// Record makes a record that has to come after another one (nil: none) in
	// the log. It has no effect: a record that is not handed in is forgotten.
	Record(after Ticket, b Body) Ticket
	// Submit hands in a record whose change has been published. It does not
	// block. A record that is known as the predecessor of one that was handed
	// in may be written before.
	Submit(Ticket)
}

// durable reports whether nothing has to be waited for.
func durable(t Ticket) bool {
	if t == nil {
		return true
	}
	select {
	case <-t.Done():
		return t.Err() == nil
	default:
		return false
	}
}

// await waits until t is durable.
func await(t Ticket) error {
	if t == nil {
		return nil
	}
	<-t.Done()
	return t.Err()
}
