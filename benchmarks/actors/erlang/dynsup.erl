%% A supervisor of counters that come and go.
-module(dynsup).
-behaviour(supervisor).
-export([start_link/0, init/1]).

start_link() -> supervisor:start_link({local, dynsup}, ?MODULE, []).

init([]) ->
    {ok, {#{strategy => simple_one_for_one, intensity => 1000000, period => 1},
          [#{id => srv, start => {srv, start_link, []}, restart => permanent, shutdown => 5000}]}}.
