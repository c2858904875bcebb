package conn

import (
	"errors"
	"fmt"
	"time"
)

// past is what was replayed.
//
// Every change has a number, and says everything about its client. So of each
// client the change with the highest number counts, an end too, and it does not
// matter in what order they come. What a snapshot has is numbered up to its mark;
// of changes below that it has what came of them, and they are passed over.
type past struct {
	clients map[string]Change // the last one of each
	mark    uint64
}

// Replay applies a change that was read from a log. All are to be replayed before
// Begin. An error says why the record cannot be one of this log, and then it has
// changed nothing.
func (t *Table) Replay(body []byte) error {
	c, err := ParseChange(body)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.begun {
		return errors.New("conn: Replay after Begin")
	}
	if err := t.past.apply(&c); err != nil {
		return fmt.Errorf("client record of %q: %w", c.Client.ID, err)
	}
	t.seq = max(t.seq, c.Seq)
	return nil
}

func (p *past) apply(c *Change) error {
	if c.What == Mark {
		p.mark = max(p.mark, c.Seq)
		return nil
	}
	if c.Seq <= p.mark {
		return nil
	}
	known, ok := p.clients[c.Client.ID]
	if ok {
		older, newer := &known, c
		if newer.Seq < older.Seq {
			older, newer = newer, older
		}
		if err := older.precedes(newer); err != nil {
			return err
		}
	}
	if p.clients == nil {
		p.clients = make(map[string]Change)
	}
	if !ok || known.Seq < c.Seq {
		p.clients[c.Client.ID] = *c
	}
	return nil
}

// precedes says why c cannot come before d, somewhere, of the same client.
func (c *Change) precedes(d *Change) error {
	switch {
	case c.Seq == d.Seq:
		if *c != *d {
			return fmt.Errorf("there are two changes of number %d", c.Seq)
		}
	case c.Generation > d.Generation:
		return fmt.Errorf("generation %d %s by number %d, after generation %d %s by number %d", d.Generation, d.What, d.Seq, c.Generation, c.What, c.Seq)
	case c.Generation < d.Generation:
		if c.Seq > d.Generation {
			return fmt.Errorf("generation %d %s by number %d, when generation %d had begun", c.Generation, c.What, c.Seq, d.Generation)
		}
	case c.What == Ended:
		return fmt.Errorf("generation %d %s by number %d, and %s by number %d", c.Generation, c.What, c.Seq, d.What, d.Seq)
	case d.What != Ended && c.Client.Adapter != d.Client.Adapter:
		return fmt.Errorf("generation %d is of adapter %q and of adapter %q", c.Generation, c.Client.Adapter, d.Client.Adapter)
	}
	return nil
}

// Begin ends the replay: everybody who had a session has it still, with its
// generation, but is not connected. Each has its TTL from now on to come back and
// keep everything, and at least as long as grace. A table whose
// Begin is not called begins with the first Connect, and without grace.
func (t *Table) Begin(now time.Time, grace time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.start(now, grace)
}

func (t *Table) start(now time.Time, grace time.Duration) {
	if t.begun {
		return
	}
	t.begun, t.begin = true, now
	for _, c := range t.past.clients {
		if c.What == Ended {
			continue
		}
		s := t.session(&c.Client, t.adapter(c.Client.Adapter), c.Generation)
		s.seq = c.Seq
		s.until = int64(max(s.ttl(), grace, 0))
		t.file(s)
		t.publish(s)
	}
	t.past = past{}
}

// Snapshot calls emit with changes that say what the table was at one moment of
// the call. They are replayed first, in their order. After them come the changes
// since that moment, in any order; of those before it, which may have been on
// their way to the log, any may be among them. It stops at the first error of
// emit and returns it.
func (t *Table) Snapshot(emit func(Change) error) error {
	cs, err := t.snapshot()
	if err != nil {
		return err
	}
	for _, c := range cs {
		if err := emit(c); err != nil {
			return err
		}
	}
	return nil
}

func (t *Table) snapshot() ([]Change, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.begun && t.seq > 0 {
		return nil, errors.New("conn: Snapshot before Begin")
	}
	cs := make([]Change, 0, t.known+1)
	for _, s := range t.all() {
		what := Updated
		if s.seq == s.generation {
			what = Began
		}
		cs = append(cs, s.change(what))
	}
	if t.seq > 0 {
		cs = append(cs, Change{What: Mark, Seq: t.seq})
	}
	return cs, nil
}
