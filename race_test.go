//go:build race

package sneck_test

// raced: everything takes ten times as long.
const raced = true
