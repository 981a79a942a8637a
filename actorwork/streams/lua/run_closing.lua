-- How a run ends before its steps have: it is cancelled, or overrun; and how it ends if its failures are very many. (A part: scripts
-- begin with the parts they need.)

local close_run -- below: a run in the place of a step ends with it

-- Ends some steps of a run that is closed, the last first: a message that is dropped lets the next one of its key in, which is
-- a later step. Returns whether there are more.
local function close_more(r)
  local closing = redis.call('HMGET', r.at, 'closing', 'reason')
  local step = tonumber(closing[1] or '-1')
  local failure = { type = 'Cancelled', reason = closing[2], traceback = '' }
  while step >= 0 and budget.closes > 0 do
    budget.closes = budget.closes - 1 -- Also for the runs in the place of steps.
    local state = state_of(r, step)
    if state ~= 2 then
      if state == 1 or state == 3 then
        local text = redis.call('HGET', r.at .. ':steps', step)
        -- As in `name_of`. A nap or a signal has none.
        local source = string.match(text, '"kind":"message".-"source":"([^"\\]*)"') or cjson.decode(text).source
        local child = redis.call('HGET', r.state, 'c' .. step)
        local child_home, child_run = string.match(child or '', '^(.*)/(.*)$')
        local is_child_away = child and away.is(child_home)
        local inner = child and not is_child_away and run_at(child_home, child_run)
        if is_child_away then
          away.act(child_home, 'cancel', child_home, child_run, "its run '" .. r.run .. "' has ended")
        elseif inner and close_run(inner, 'CANCELLED', "its run '" .. r.run .. "' has ended") then
          -- Its message was settled when its handler continued with this run.
        elseif not source then
          redis.call('ZREM', r.due, id_of(r, step)) -- A nap, or a signal with a limit.
        elseif away.is(source) then
          away.act(source, 'drop', id_of(r, step, attempt_of(r, step)), closing[2])
        else
          local prefix, id = 'actorwork:{' .. source .. '}:', id_of(r, step, attempt_of(r, step))
          local place = redis.call('HGET', r.state, 'p' .. step)
          local reason = closing[2]
          if not (drop(prefix, '~' .. id, 'Cancelled', reason) or drop(prefix, '=' .. id, 'Cancelled', reason)
            or place and drop(prefix, place, 'Cancelled', reason)) then
            cancels.note(prefix, id, reason, false) -- A node has it in flight.
          end
        end
      end
      local held = state == 3 and redis.call('HGET', r.at .. ':ends', step) -- It has ended before, and is retried no more.
      record(r, step, state, held and cjson.decode(held) or { how = 'cancelled', failure = failure }, held and true)
    end
    step = step - 1
  end
  if step >= 0 or r.status == 'FAILURE' and inputs.tell_failures(r) then
    redis.call('HSET', r.at, 'closing', step)
    wake(r, 'close', now_ms())
    return true
  end
  redis.call('HDEL', r.at, 'closing')
  finish(r, r.status, closing[2])
  return false
end

-- Ends an open run: what has not begun is dropped, what runs ends too late to count. Of a large run this takes several scripts;
-- its status is there at once, so no end counts any more, and `finished` once all is dropped.
function close_run(r, status, reason)
  if not OPEN[r.status] then
    return false
  end
  set_status(r, status, reason)
  redis.call('HSET', r.at, 'closing', r.total - 1)
  close_more(r)
  return true
end
