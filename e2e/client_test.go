package e2e

import (
	"encoding/json"
	"io"
	"net"
	"os"
)

// beClient is a client process: it passes on what the witness asks for, over a
// connection that it keeps until it dies or is told to connect anew, and says what
// came of it. It ends when its standard input does.
func beClient() int {
	out := &lines{to: json.NewEncoder(os.Stdout)}
	var conn net.Conn
	var to *link
	for in := json.NewDecoder(os.Stdin); ; {
		var r request
		switch err := in.Decode(&r); {
		case err == io.EOF:
			return 0
		case err != nil:
			return fail(err)
		}
		n := r.N
		reply := func(a answer) {
			a.N = n
			out.write(a)
		}
		switch {
		case r.Op == opDial:
			if conn != nil {
				conn.Close()
				<-to.gone
			}
			var err error
			if conn, err = net.Dial("unix", socketPath); err != nil {
				return fail(err)
			}
			to = dial(conn, conn)
			reply(answer{})
		case to == nil:
			reply(answer{Err: lost})
		default:
			to.send(r, reply)
		}
	}
}
