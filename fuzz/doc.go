// Package fuzz holds the fuzz targets with their corpora, and nothing that
// anybody could import.
//
//	FuzzOpenFiles    Open of a log directory whose files have arbitrary bytes
//	FuzzOpenRecords  Open of a log whose frames are intact and whose records are arbitrary
//	FuzzOpenClients  the same of records of clients
package fuzz
